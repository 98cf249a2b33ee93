"""Runs the blocks of Python in docs/state-files.md as they stand there.

Arguments: a checkpoint, a live file, a checkpoint of float32 state with stochastic rounding, and
the same state as the library converts it to bfloat16.
"""

import json
import re
import sys
import zlib
from pathlib import Path

import ml_dtypes  # noqa: F401, teaches numpy what bfloat16 is
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state-files.md"
of_header, of_live, of_rounding = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
checkpoint, live, float32, converted = sys.argv[1:]


def header(path):
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def run(code, **names):
    exec(code, names)
    return names


lines, _, comparison = of_header.strip().rpartition("\n")
names = run(lines, zlib=zlib, header=header(checkpoint))
assert eval(comparison, names)
names["header"]["__metadata__"]["sonew.step"] += "0"
assert not eval(comparison, run(lines, zlib=zlib, header=names["header"]))

with safe_open(live, framework="np") as file:
    names = run(of_live, file=file)
    assert names["step"] == 2 and names["momentum"].any()

metadata = header(float32)["__metadata__"]
seed, planes, count = json.loads(metadata["sonew.options"])["seed"], {}, 0
before, after = load_file(float32), load_file(converted)
for number, tensor in enumerate(json.loads(metadata["sonew.tensors"])):
    for plane, name in enumerate(("momentum", "diagonal", "band.1")):
        key = f"{tensor['name']}/{name}"
        if key not in before:
            continue
        words = zip(before[key].ravel().view(np.uint32), after[key].ravel().view(np.uint16))
        for index, (word, expected) in enumerate(words):
            names = run(
                of_rounding,
                seed=seed,
                step_count=tensor["step_count"],
                tensor=number,
                plane=plane,
                index=index,
                float32=int(word),
            )
            assert names["bfloat16"] == expected, (key, index)
            count += 1
print(json.dumps({"rounded": count}))

"""Opens state files with the safetensors package and reads every array.

Checksums are computed here, from the description in docs/state-files.md. Each
argument is a file; what was found in it is printed as JSON, one line for each.
"""

import json
import sys
import zlib

import ml_dtypes  # noqa: F401, teaches numpy what bfloat16 is
from safetensors import safe_open

SIZES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "U64": 8, "U8": 1}


def raw_header(path):
    with open(path, "rb") as file:
        head = file.read(8)
        head += file.read(int.from_bytes(head, "little"))
    zeroed = head[:47] + b"00000000" + head[55:]
    assert zlib.crc32(zeroed) == int(head[47:55], 16), "checksum of the header"
    return len(head), json.loads(head[8:])


def read(path):
    start, header = raw_header(path)
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    arrays = {}
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
        for name in file.keys():
            entry = header[name]
            begin, end = entry["data_offsets"]
            shape = file.get_slice(name).get_shape()
            assert shape == entry["shape"], name
            array = file.get_tensor(name)
            assert list(array.shape) == shape, name
            assert array.tobytes() == data[begin:end], name
            count = 1
            for dim in shape:
                count *= dim
            assert count * SIZES[entry["dtype"]] == end - begin, name
            arrays[name] = data[begin:end]
            assert name.startswith("sonew.padding/") or (start + begin) % 64 == 0, name

    checksums = {k: int(v, 16) for k, v in json.loads(metadata["sonew.checksums"]).items()}
    found = {"format": int(metadata["sonew.format"]), "arrays": len(arrays)}
    if found["format"] == 3:
        words = [int.from_bytes(arrays["sonew.live/commit"][8 * i : 8 * i + 8], "little") for i in range(8)]
        found["step"], copy = divmod(words[0] & (1 << 48) - 1, 2)
        assert words[0] >> 48 == zlib.crc32(words[0].to_bytes(8, "little")[:6]) & 0xFFFF
        suffix = ["", ".b"][copy]
        found["synced"] = words[1] == 0
        if found["synced"]:
            sealed = words[2].to_bytes(8, "little") + arrays["sonew.live/settings" + suffix]
            assert words[2] == words[0] and zlib.crc32(sealed + arrays["sonew.live/checksums"]) == words[3]
            names = [n for n in header if not n.startswith(("sonew.", "__"))]
            names = names[: len(names) // 2]
            values = arrays["sonew.live/checksums"]
            for i, name in enumerate(names):
                checksums[name + suffix] = int.from_bytes(values[8 * i : 8 * i + 8], "little")
    else:
        found["step"] = int(metadata["sonew.step"])
    for name, crc in checksums.items():
        assert zlib.crc32(arrays[name]) == crc, name
    found["verified"] = len(checksums)
    return found


for path in sys.argv[1:]:
    print(json.dumps(read(path)))

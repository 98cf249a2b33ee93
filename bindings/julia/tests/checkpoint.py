"""Opens the file that the Julia example left, and compares it with what C found there.

checkpoint.py FILE PARAMETERS
"""

import sys

import numpy
from safetensors import safe_open

path, parameters = sys.argv[1:]
expected = numpy.fromfile(parameters, dtype=numpy.float32)
shapes = {
    "first.W": (48, 2),
    "first.b": (48,),
    "second.W": (48, 48),
    "second.b": (48,),
    "last.W": (1, 48),
    "last.b": (1,),
}
with safe_open(path, framework="numpy") as file:
    names = set(file.keys())
    for name, shape in shapes.items():
        for plane in ("momentum", "diagonal", "band.1"):
            values = file.get_tensor(f"{name}/{plane}")
            assert values.shape == shape, (name, plane, values.shape)
            assert numpy.isfinite(values).all(), (name, plane)
            # One number alone has no neighbour.
            assert values.any() or values.size == 1, (name, plane)
        size = numpy.prod(shape)
        here, expected = expected[:size].reshape(shape), expected[size:]
        # A live file has two copies, and one of them is the last step's.
        copies = [file.get_tensor(f"{name}/master{copy}") for copy in ("", ".b")]
        assert any((copy == here).all() for copy in copies), name
        assert not all((copy == here).all() for copy in copies), name
    assert len(expected) == 0
print(f"Python opens the example's file: {len(names)} tensors")

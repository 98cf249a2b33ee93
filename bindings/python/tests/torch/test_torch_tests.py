"""torch's own test file of its optimizers, with SONew in its table instead of them. It is not in
torch's wheel: SONEW_TORCH_TESTS names the folder `test` of PyTorch's source. test_table.py asks the
same without it.

With the file of PyTorch 2.6 its class TestOptimRenewed passes, but for three tests that need
GPUs. What it does not run for SONew, sonew_info.py lists."""

import os
import sys
from pathlib import Path

import pytest
import torch.testing._internal.common_optimizers as common_optimizers
from sonew_info import INFO

TESTS = os.environ.get("SONEW_TORCH_TESTS")
if not TESTS:
    pytest.skip("NOT TESTED: PyTorch's source is not there", allow_module_level=True)

FILE = Path(TESTS) / "test_optim.py"
# It imports the classes of other files beside it, which have no table.
sys.path.insert(0, TESTS)
everything, common_optimizers.optim_db = common_optimizers.optim_db, [INFO]
try:
    exec(compile(FILE.read_text(), str(FILE), "exec"), globals())
finally:
    common_optimizers.optim_db = everything
    sys.path.remove(TESTS)
for name, value in list(globals().items()):
    if isinstance(value, type) and name.startswith("Test") and "TestOptimRenewed" not in name:
        del globals()[name]

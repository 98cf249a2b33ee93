"""Optax's own test files, with sonew in their tables instead of optax's optimizers. They are
not in its wheel: `run --prepare` fetches its source distribution, and SONEW_OPTAX_SOURCE names
the folder that it is in.

What does not apply, and is left out:

- complex parameters, which sonew refuses (so do twelve of optax's own there);
- `test_explicit_dtype`, which reads the state of Adam and SGD by their own names;
- `test_microbatch_with_explicit_sharding`, and the tests of single optimizers (L-BFGS, Adam
  beside its variants), which have no optimizer from a table;
- with lagged numbers, the comparison of states in `..._inject_hyperparams`: it wants states
  that are close, and theirs are words of float64 numbers. It is made without these, with
  damping="absolute".
"""

import os
import sys
import types
from pathlib import Path
from typing import Optional

import optax
import pytest

SOURCE = os.environ.get("SONEW_OPTAX_SOURCE")
if not SOURCE or Path(SOURCE).name != f"optax-{optax.__version__}":
    pytest.skip("NOT TESTED: optax's source is not there", allow_module_level=True)

from optax._src import alias
from sonew.jax import sonew

# Where their tables look for optimizers.
alias.sonew = sonew
# Tests of L-BFGS take data from it; it is not installed for these.
for name in ("sklearn", "sklearn.datasets", "sklearn.linear_model"):
    sys.modules.setdefault(name, types.ModuleType(name))
for name in ("datasets", "linear_model"):
    if not hasattr(sys.modules["sklearn"], name):
        setattr(sys.modules["sklearn"], name, sys.modules[f"sklearn.{name}"])

LEFT_OUT = ("test_explicit_dtype", "test_microbatch_with_explicit_sharding")
INJECT = "test_optimizers_can_be_wrapped_in_inject_hyperparams"


def row(wrapper=None, wrapper_kwargs=None, learning_rate=1e-2, **options):
    return {
        "opt_name": "sonew",
        "opt_kwargs": {"learning_rate": learning_rate, **options},
        "wrapper_name": wrapper,
        "wrapper_kwargs": wrapper_kwargs,
    }


PLAIN = [row()]
ABSOLUTE = [row(damping="absolute", eps=1e-8)]
MORE = [
    row(band=0),
    row(band=4, graft="normalized_rmsprop"),
    row(lagged_norms=True, nesterov=True),
    row(b1=0.95, b2=0.999, mu_dtype="float32"),
    row(damping="relative", weight_decay=1e-6),
]
WRAPPED = [
    row("mechanize", {"weight_decay": 0.0}, learning_rate=1.0),
    row("schedule_free", {"learning_rate": 1e-2}),
]
# It needs the loss, which its own test of further arguments passes to SGD alone.
PLATEAU = [row("reduce_on_plateau", {})]


def cases_of(path, name, table, states_are_close=False, without=()):
    """A test class of a file, whose tables of optimizers are these; all of its tests, or the
    one that compares states."""
    text = (Path(SOURCE) / path).read_text()
    before, header, after = text.partition(f"class {name}(")
    assert header, f"{path} has no {name}"
    module = types.ModuleType(f"{__name__}.{Path(path).stem}_{len(sys.modules)}")
    module.__dict__["SONEW_TABLE"] = table
    # Their decorators read the module of a class.
    sys.modules[module.__name__] = module
    names = ("_OPTIMIZERS_UNDER_TEST", "_ALL_OPTIMIZERS_UNDER_TEST", "_MAIN_OPTIMIZERS_UNDER_TEST", "OPTIMIZERS")
    lines = "".join(f"if {n!r} in globals(): {n} = SONEW_TABLE\n" for n in names)
    exec(compile(before + lines + header + after, str(Path(SOURCE) / path), "exec"), module.__dict__)
    tests = getattr(module, name)
    for test in [test for test in dir(tests) if test.startswith("test")]:
        of_complex = "complex" in getattr(getattr(tests, test), "__x_params_repr__", "")
        if test.startswith((*LEFT_OUT, *without)) or of_complex or test.startswith(INJECT) != states_are_close:
            delattr(tests, test)
    return tests


def plain(rows):
    return tuple({key: row[key] for key in ("opt_name", "opt_kwargs")} for row in rows)


def made(rows):
    return {f"sonew{i}": sonew(**row["opt_kwargs"]) for i, row in enumerate(rows)}


ALIAS = "optax/_src/alias_test.py", "AliasTest"
CONTRIB = "optax/contrib/_common_test.py", "ContribTest"
SHARDING = "optax/_src/sharding_test.py", "ShardingTest"

# What both files test; the first calls one of them test_optimization.
BOTH_FILES = (
    "test_gradient_accumulation", "test_optimizers_accept_extra_args", "test_preserve_dtype",
    "test_state_shape_dtype_shard_stability", *(f"test_optimizers{i}" for i in range(9)),
)  # fmt: skip

AliasTest = cases_of(*ALIAS, plain(PLAIN))
InjectAliasTest = cases_of(*ALIAS, plain(ABSOLUTE), states_are_close=True)
ContribTest = cases_of(*CONTRIB, tuple(PLAIN), without=BOTH_FILES)
ShardingTest = cases_of(*SHARDING, made(PLAIN))

LongAliasTest = pytest.mark.long(cases_of(*ALIAS, plain(MORE)))
LongContribTest = pytest.mark.long(cases_of(*CONTRIB, tuple(PLAIN + MORE + WRAPPED)))
LongPlateauTest = pytest.mark.long(
    cases_of(*CONTRIB, tuple(PLATEAU), without=["test_optimizers_accept_extra_args"])
)
LongInjectContribTest = pytest.mark.long(
    cases_of(*CONTRIB, tuple(ABSOLUTE), states_are_close=True)
)
LongShardingTest = pytest.mark.long(cases_of(*SHARDING, made(MORE)))


def test_annotations_are_those_of_optax():
    import inspect

    ours, theirs = inspect.signature(sonew), inspect.signature(optax.adamw)
    assert ours.return_annotation == theirs.return_annotation
    for name in ("learning_rate", "weight_decay", "b1", "nesterov"):
        own, wanted = ours.parameters[name].annotation, theirs.parameters[name].annotation
        # Ours may be left out where theirs have a default.
        assert own in (wanted, Optional[wanted])
    assert {"b1", "b2", "eps", "mu_dtype", "weight_decay", "nesterov"} <= set(ours.parameters)

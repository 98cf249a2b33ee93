"""Bad input raises a Python error that names the leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sonew.jax import fused_sonew, load, scale_by_sonew, sonew

PARAMS = {"layer": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}


def changed(name, leaf):
    return {"layer": {**PARAMS["layer"], name: leaf}}


def update(grads, **options):
    optimizer = scale_by_sonew(**options)
    return optimizer.update(grads, optimizer.init(PARAMS))


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("band", 17, "band is 17, must be 0 to 16"),
        ("band", -1, "band is -1"),
        ("band", True, "band is True, must be a Python int"),
        ("band", 1.0, "band is 1.0, must be a Python int"),
        ("beta1", 1.0, r"beta1 is 1.0, must be in \[0, 1\)"),
        ("beta2", -0.1, "beta2 is -0.1"),
        ("beta2", "0.9", "beta2 is '0.9', must be a number"),
        ("eps", float("nan"), "eps is nan, must be finite and not negative"),
        ("eps", np.ones(2), r"eps has shape \(2,\), must be a scalar"),
        ("gamma", 1, "gamma is 1.0"),
        ("graft", "adamw", "graft is 'adamw', must be one of 'none', 'sgd'"),
        ("statistics", None, "statistics is None, must be one of"),
        ("damping", 0, "damping is 0"),
        ("statistics_weight", 2.0, "statistics_weight must be 1 with moving-average"),
        ("clip_norm", 0.0, "clip_norm is 0.0, must be finite and positive"),
        ("grad_scale", 0, "grad_scale is 0.0"),
        ("chains", "diagonal", "chains is 'diagonal', must be one of"),
        ("update", "sgd", "update is 'sgd'"),
        ("state_dtype", "float16", "state_dtype is float16, must be one of"),
        ("state_dtype", "float64", "state_dtype is float64, which needs jax_enable_x64"),
        ("seed", 2**64, "seed is 18446744073709551616"),
        ("threads", 1025, "threads is 1025"),
        ("bias_correction", 1, "bias_correction is 1, must be True or False"),
        ("non_finite", "raise", "non_finite is 'raise'"),
        ("implementation", "gpu", "implementation is 'gpu'"),
    ],
)
@pytest.mark.parametrize("make", [scale_by_sonew, lambda **o: sonew(0.1, **o), lambda **o: fused_sonew(0.1, **o)])  # fmt: skip
def test_options(make, option, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**{option: value})


@pytest.mark.parametrize(
    "grads, message",
    [
        (changed("bias", jnp.ones(3, int)), "'layer.bias' has dtype int32, must be one of"),
        (changed("bias", jnp.ones(3, complex)), "'layer.bias' has dtype complex64"),
        (changed("bias", 1.0), r"'layer.bias' has shape \(3,\) in the momentum, but \(\) here"),
        (changed("bias", "1.0"), "'layer.bias' is a str, not an array"),
        (changed("bias", True), "'layer.bias' is a bool, not an array"),
        (changed("bias", jax.random.key(0)), "'layer.bias' has dtype key<"),
        (changed("kernel", jnp.ones((1,) * 9)), "'layer.kernel' has 9 dimensions, at most 8"),
        (changed("kernel", jnp.ones((3, 4))), r"'layer.kernel' has shape \(4, 3\) in the momentum"),
        ({"layer": {"kernel": jnp.ones((4, 3))}}, "'layer.bias' is not among the gradients"),
        (changed("scale", jnp.ones(1)), "'layer.scale' is missing"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients(grads, message, compiled):
    optimizer = scale_by_sonew()
    state = optimizer.init(PARAMS)
    # What is no array is no argument of a compiled function either.
    call = jax.jit(optimizer.update) if compiled and "an array" not in message else optimizer.update
    with pytest.raises((ValueError, TypeError), match=message):
        call(grads, state)


def test_per_leaf_options():
    for option, value, message in [
        ("chains", {"layer": {"kernel": "contiguous_lines", "bias": "x"}}, "chains of 'layer.bias' is 'x'"),
        ("update", lambda path, leaf: "sgd", "update of 'layer.bias' is 'sgd'"),
        ("chains", {"layer": {"kernel": "contiguous_lines"}}, "chains does not fit the tree"),
        ("state_dtype", lambda path, leaf: "int8", "state_dtype of 'layer.bias' is int8"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            scale_by_sonew(**{option: value}).init(PARAMS)


def test_states():
    optimizer = scale_by_sonew()
    state = optimizer.init(PARAMS)
    for spoilt, message in [
        (state._replace(bands=()), "the state has 0 sub-diagonals, but band is 1"),
        (
            state._replace(momentum=changed("bias", jnp.ones(3, jnp.bfloat16))),
            "the state of 'layer.bias' has planes of float32 and bfloat16",
        ),
        (
            state._replace(diagonal=changed("bias", jnp.ones(4))),
            r"'layer.bias' has shape \(4,\) in the diagonal",
        ),
        (scale_by_sonew(update="adam").init(PARAMS), "no plane for 'layer.bias'"),
        ((), "the state is a tuple, not a ScaleBySonewState"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            optimizer.update(PARAMS, spoilt)


def test_parameters_of_the_fused_step():
    optimizer = fused_sonew(0.1)
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match=r"'layer.bias' has shape \(2,\) in the parameters"):
        optimizer.step(changed("bias", jnp.ones(2)), PARAMS, state)
    with pytest.raises(ValueError, match="the tree of the parameters differs"):
        optimizer.step({}, PARAMS, state)
    with pytest.raises(ValueError, match="learning_rate is -1.0"):
        fused_sonew(-1.0)
    with pytest.raises(ValueError, match="learning_rate_scale of 'layer.bias' is -2.0"):
        fused_sonew(0.1, learning_rate_scale=-2.0).step(PARAMS, PARAMS, state)


def test_unknown_options_of_files(tmp_path):
    optimizer = sonew(0.1)
    with pytest.raises(TypeError, match="there is no option 'bnad'"):
        load(tmp_path / "x", PARAMS, optimizer.init(PARAMS), bnad=2)

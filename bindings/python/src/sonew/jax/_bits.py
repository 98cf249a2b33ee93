"""How numbers are kept. Bit patterns in 32-bit words: float64 numbers on platforms without them,
and the library's stochastic rounding."""

import jax
import jax.numpy as jnp
from jax.lax import bitcast_convert_type

U32 = jnp.uint32


def from_float(x):
    """The bits of a number as a float64, low word first."""
    if x.dtype == jnp.float64:
        return bitcast_convert_type(x, U32)
    bits = bitcast_convert_type(x.astype(jnp.float32), U32)
    sign, exponent, fraction = bits >> 31, bits >> 23 & 0xFF, bits & 0x7FFFFF
    wide = jnp.where(exponent == 0xFF, U32(0x7FF), exponent + U32(1023 - 127))
    high = sign << 31 | wide << 20 | fraction >> 3
    # Subnormal numbers of float32 count as zero.
    is_zero = exponent == 0
    words = [jnp.where(is_zero, 0, fraction << 29), jnp.where(is_zero, sign << 31, high)]
    return jnp.stack(words, -1).astype(U32)


def to_float(words, dtype):
    """The number whose bits as a float64 these words are."""
    if dtype == jnp.float64:
        return bitcast_convert_type(words, jnp.float64)
    low, high = words[..., 0], words[..., 1]
    exponent = (high >> 20 & 0x7FF).astype(jnp.int32) - (1023 - 127)
    fraction = (high & 0xFFFFF) << 3 | low >> 29
    # To nearest: a carry correctly propagates into the exponent.
    magnitude = (jnp.clip(exponent, 0, 255).astype(U32) << 23 | fraction) + (low >> 28 & 1)
    is_nan = ((high >> 20 & 0x7FF) == 0x7FF) & ((high & 0xFFFFF | low) != 0)
    magnitude = jnp.where(exponent <= 0, U32(0), magnitude)
    magnitude = jnp.where(exponent >= 255, U32(0x7F800000), magnitude)
    magnitude = jnp.where(is_nan, U32(0x7FC00000), magnitude)
    return bitcast_convert_type(high >> 31 << 31 | magnitude, jnp.float32)


def stored(x):
    """A number of the state: zero where it is subnormal."""
    return jnp.where(jnp.abs(x) < jnp.finfo(x.dtype).tiny, 0, x)


def rounded(x, dtype, settings, step, tensor, plane):
    """Rounds to a type: stochastically if the settings say so and the type has 16
    bits, otherwise to nearest."""
    stochastic = settings.rounding == "stochastic" and dtype in (jnp.bfloat16, jnp.float16)
    if not stochastic:
        return x.astype(dtype)
    # For derivatives, rounding counts as the identity.
    x = x.astype(jnp.float32)
    value = stochastically(jax.lax.stop_gradient(x), dtype, settings.seed, step, tensor, plane)
    change = jnp.where(jnp.isfinite(x), x - jax.lax.stop_gradient(x), 0)
    return value + change.astype(dtype)


def stochastically(x, dtype, seed, step, tensor, plane):
    noise = words_of_noise(seed, step, tensor, plane, x.size).reshape(x.shape)
    bits = bitcast_convert_type(x, U32)
    if dtype == jnp.bfloat16:
        value = (bits + (noise & 0xFFFF)) >> 16
        return bitcast_convert_type(value.astype(jnp.uint16), jnp.bfloat16)
    smallest = jnp.float32(2.0**-14)
    magnitude = jnp.abs(x)
    is_small = magnitude < smallest
    fixed = bitcast_convert_type(magnitude + jnp.where(is_small, smallest, 0), U32)
    cut = bitcast_convert_type(fixed + (noise & 0x1FFF) & U32(0xFFFFE000), jnp.float32)
    value = cut - jnp.where(is_small, smallest, 0)
    return jnp.where(x != x, x, jnp.copysign(value, x)).astype(jnp.float16)


def words_of_noise(seed, step, tensor, plane, count):
    """Random bits for the elements of a plane, the same as in the library."""
    key = mix(*xor(split(seed), mix(step.astype(U32), U32(0))))
    for number in (tensor, plane):
        key = mix(*xor(key, mix(*split(number))))
    x = jnp.arange(count, dtype=U32) ^ key[0]
    x = (x ^ x >> 16) * U32(0x7FEB352D) + key[1]
    x = (x ^ x >> 15) * U32(0x846CA68B)
    return x ^ x >> 16


def split(number):
    return U32(number & 0xFFFFFFFF), U32(number >> 32)


def xor(a, b):
    return a[0] ^ b[0], a[1] ^ b[1]


def mix(low, high):
    """The finalizer of SplitMix64, on two words."""
    low, high = add(low, high, 0x9E3779B97F4A7C15)
    low, high = multiply(*xor_shift(low, high, 30), 0xBF58476D1CE4E5B9)
    low, high = multiply(*xor_shift(low, high, 27), 0x94D049BB133111EB)
    return xor_shift(low, high, 31)


def add(low, high, constant):
    other = split(constant)
    sum_low = low + other[0]
    return sum_low, high + other[1] + (sum_low < low).astype(U32)


def xor_shift(low, high, by):
    return low ^ (low >> by | high << (32 - by)), high ^ high >> by


def multiply(low, high, constant):
    other = split(constant)
    product = times(low, other[0])
    return product[0], product[1] + low * other[1] + high * other[0]


def times(a, b):
    """The 64 bits of a product of two words."""
    a0, a1, b0, b1 = a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16
    low, high = a0 * b0, a1 * b1
    middle = a1 * b0 + (low >> 16)
    other = a0 * b1 + (middle & 0xFFFF)
    return other << 16 | low & 0xFFFF, high + (middle >> 16) + (other >> 16)

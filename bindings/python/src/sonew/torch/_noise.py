"""The library's stochastic rounding, in operations of torch: the same random bits."""

import torch

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def rounded(x, dtype, key):
    """Rounds to a type: to nearest if there is no key or the type has more than 16 bits,
    otherwise stochastically."""
    if key is None or dtype not in (torch.bfloat16, torch.float16):
        return x.to(dtype)
    x = x.float()
    noise = words(key, x)
    if dtype == torch.bfloat16:
        cut = (x.view(torch.int32).to(torch.int64) & M32) + (noise & 0xFFFF) & 0xFFFF0000
        return from_bits(cut).to(dtype)
    smallest = 2.0**-14
    magnitude = x.abs()
    shift = torch.where(magnitude < smallest, smallest, 0.0)
    bits = (magnitude + shift).view(torch.int32).to(torch.int64)
    value = from_bits(bits + (noise & 0x1FFF) & 0xFFFFE000) - shift
    return torch.where(x != x, x, torch.copysign(value, x)).to(dtype)


def from_bits(bits):
    """The float32 numbers with these bits, which are in 64-bit integers."""
    return torch.where(bits > 0x7FFFFFFF, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)


def words(key, like):
    """Random words for the elements of a plane, in the shape and order of a tensor."""
    x = torch.arange(like.numel(), dtype=torch.int64, device=like.device).reshape(like.shape)
    x = x & M32 ^ key[0]
    x = (x ^ x >> 16) * 0x7FEB352D + key[1] & M32
    x = (x ^ x >> 15) * 0x846CA68B & M32
    return x ^ x >> 16


def keys(seed, step, tensor, planes, device):
    """Of each plane of a tensor in a step, and last of its parameters, the two words from which
    its noise follows."""
    found = []
    for plane in range(planes + 1):
        key = mix(mix(mix(seed ^ mix(step & M32)) ^ mix(tensor)) ^ mix(plane))
        found.append((key & M32, key >> 32))
    return torch.tensor(found, dtype=torch.int64, device=device)


def mix(x):
    """The finalizer of SplitMix64."""
    x = x + 0x9E3779B97F4A7C15 & M64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & M64
    return x ^ x >> 31

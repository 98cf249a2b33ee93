"""Memory of state on the CPU, as the library has its own: large planes get huge pages, and begin at
different places of a page. A step reads every plane from end to end. With pages of 4 KiB it would
need many more address translations, and planes that begin alike would evict each other from caches,
which select a set by some bits of the address."""

import itertools
import mmap

import torch

MAPPED = 4 << 20
LINE = 64
STAGGER = 3 * 4096 + 5 * LINE
OFFSETS = 32
_places = itertools.count()


def zeros(count, dtype):
    """So many zeros."""
    size = count * dtype.itemsize
    if size < MAPPED:
        return torch.zeros(count, dtype=dtype, device="cpu")
    start = next(_places) % OFFSETS * STAGGER
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, size + start, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            # Only a hint: there may be none.
            pass
    # The tensor keeps the mapping.
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start)

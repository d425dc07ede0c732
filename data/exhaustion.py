"""Tell exhausted memory from other errors."""

from __future__ import annotations

import torch

_WORDS = (  # of the CPU's allocator, which has no exception of its own, and of CUDA's libraries
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
)


def is_exhaustion(error: BaseException) -> bool:
    """Return whether an error says that the memory of the CPU or of a GPU is exhausted."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)

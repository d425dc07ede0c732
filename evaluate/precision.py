"""float32 that is float32, on a GPU too."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions of float32 are computed in it, and as before afterwards.

    By PyTorch's default cuDNN rounds their inputs to TF32, of 10 bits behind the point. PyTorch's
    matrix products are in full float32 by default. bfloat16 under autocast stays what it is.
    """
    before = torch.backends.cudnn.allow_tf32
    try:
        _allow_tf32(False)
        yield
    finally:
        _allow_tf32(before)


def _allow_tf32(allowed: bool) -> None:
    with warnings.catch_warnings():  # PyTorch 2.9 warns of this name; 2.4 knows no other
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = allowed

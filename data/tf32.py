"""Float32 that is float32: TF32, which keeps 10 of its 23 bits of mantissa, switched off."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let convolutions and matrix products compute in full float32 within the block.

    PyTorch's convolutions on a GPU are in TF32 unless told otherwise. The switches are the whole
    process's, other threads' too; they are put back afterwards, also after an exception.

    Notes
    -----
    Up to PyTorch 2.8 there are `allow_tf32` and `set_float32_matmul_precision`. From 2.9 on there
    is also a word for each kind of operation, which is what counts; the old switches are kept in
    agreement, because PyTorch refuses to read them (and `torch.compile` reads one) where the two
    contradict each other.
    """
    words = {place: place.fp32_precision for place in _places()}
    allowed = _read(lambda: torch.backends.cudnn.allow_tf32, True)
    products = _read(torch.get_float32_matmul_precision, "highest")
    try:
        _set_old(False, "highest")
        for place in words:
            place.fp32_precision = "ieee"
        yield
    finally:
        _set_old(allowed, products)
        for place, word in words.items():
            place.fp32_precision = word


def _places() -> list[Any]:
    """Where PyTorch has a word for the precision of float32: all that the old switches set."""
    backends = torch.backends
    named = (
        (backends.cudnn, "conv"),
        (backends.cudnn, "rnn"),
        (backends.cuda, "matmul"),
        (backends.mkldnn, "matmul"),
    )
    places = (getattr(module, name, None) for module, name in named)
    return [place for place in places if hasattr(place, "fp32_precision")]


def _set_old(convolutions: bool, products: str) -> None:
    with warnings.catch_warnings():  # PyTorch 2.9 warns of these names; 2.4 knows no others
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def _read(switch, otherwise):
    """An old switch's value; `otherwise` where a new one contradicts it, and PyTorch refuses."""
    try:
        return switch()
    except RuntimeError:
        return otherwise

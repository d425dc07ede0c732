"""Results on their way from the device to host memory, while the device computes the next ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def to_host(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors in host memory, in order, of the same shapes and dtypes.

    From CUDA each is waited for only when the next has been asked for, so that the host prepares a
    batch while the device computes the one before. Not more than two lie in pinned memory at once.
    """
    coming: _Coming | None = None
    for tensor in tensors:
        if tensor.device.type != "cuda":  # others' copies do not promise to be whole when awaited
            yield tensor.cpu()
            continue
        last, coming = coming, _Coming(tensor)
        if last is not None:
            yield last.wait()
    if coming is not None:
        yield coming.wait()


class _Coming:
    """A copy that has been asked for of a CUDA tensor."""

    def __init__(self, tensor: Tensor):
        self._pinned = tensor.to("cpu", non_blocking=True)  # PyTorch takes pinned memory for it
        self._done = torch.cuda.Event()
        self._done.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """The tensor in pageable memory; the pinned memory is free for others then."""
        self._done.synchronize()
        return self._pinned.clone()

"""Tensors that a loading process writes where the process that asked for them reads."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info

from data.errors import UserError


def new_tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialised tensor; in a DataLoader's worker it lies in shared memory.

    A worker's tensor that does not is copied there when it is sent, by a thread whose failure
    nobody hears of: where that memory is full (a container has 64 MB of it, by default), the
    trainer would wait for ever.

    Raises
    ------
    UserError
        The shared memory is full.
    """
    if get_worker_info() is None:
        return torch.empty(tuple(shape), dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    try:
        storage = torch.UntypedStorage._new_shared(size)
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise UserError(_full(size)) from None
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor, in a worker as a copy in shared memory; see `new_tensor`."""
    tensor = torch.from_numpy(array)
    return (
        tensor if get_worker_info() is None else new_tensor(array.shape, tensor.dtype).copy_(tensor)
    )


def _full(size: int) -> str:
    try:
        space = f" (/dev/shm, {shutil.disk_usage('/dev/shm').total / 1e6:.1f} MB)"
    except OSError:
        space = ""
    return (
        f"the shared memory of the loading processes{space} has no room for another "
        f"{size / 1e6:.1f} MB of a batch; enlarge it (docker run --shm-size=8g), or use fewer "
        "workers or a smaller batch."
    )

"""What a method must offer to make masks on a device (`saliency.learned`)."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class LearnedMethod(Protocol):
    """What the pipeline asks of a method.

    Attributes
    ----------
    device : torch.device
    batch_size : int
        The largest batch.
    decode_side : int
        Cap of the decoded image's long side in pixels; 0 for the image as it is.
    prepare : callable
        uint8 RGB (h, w, 3) to float32 (3, S, S); picklable, it runs in worker processes.
    """

    device: torch.device
    batch_size: int
    decode_side: int
    prepare: Callable[[np.ndarray], np.ndarray]

    def compute(self, batch: Tensor, keys: list[str]) -> Tensor:
        """Prepared images (N, 3, S, S) on the device, and their keys, to (N, h, w) there.

        Of any floating dtype.
        """

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """One image's result, float32 (h, w), to its map of `size`, in [0, 1]."""

"""One colour, always the same."""

from __future__ import annotations

import numpy as np

from data.images import IMAGENET_MEAN


class Constant:
    """ImageNet's mean colour: the background removed (BG_RM, Ryali et al. 2021)."""

    def __len__(self) -> int:
        return 1

    def read(self, number: int) -> np.ndarray:
        """Return the one background, uint8 (1, 1, 3)."""
        return np.rint(255 * np.array([[IMAGENET_MEAN]])).astype(np.uint8)

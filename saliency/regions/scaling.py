"""Scaling of saliency values to [0, 1]."""

import numpy as np


def min_max(values: np.ndarray) -> np.ndarray:
    """Scale to [0, 1] as the authors do, (v - min) / (max - min + eps): a constant gives 0."""
    low = values.min()
    return (values - low) / (values.max() - low + np.finfo(np.float64).eps)

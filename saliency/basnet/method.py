"""BASNet as a method of `saliency-compute`."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from saliency.basnet.predict import Predictor
from saliency.basnet.preprocess import SIZE, preprocess, resize_map, stretch


class BasnetMethod:
    """A predictor with what the pipeline asks for (`saliency.methods.protocol.NetworkMethod`).

    Parameters
    ----------
    predictor : Predictor
    size : int
        Side of the square input in pixels; 256 as published.
    """

    decode_side = 0  # the published resize starts from the whole image

    def __init__(self, predictor: Predictor, size: int = SIZE) -> None:
        self.predictor = predictor
        self.prepare = partial(preprocess, size=size)

    @property
    def device(self) -> torch.device:
        return self.predictor.device

    @property
    def batch_size(self) -> int:
        return self.predictor.batch_size

    def compute(self, batch: Tensor, keys: list[str]) -> Tensor:
        """The refined map of every image, (N, S, S), on the device."""
        return self.predictor.refined(batch)

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Stretch to [0, 1] and resize; a constant map gives zeros."""
        stretched = stretch(result[None])[0]
        return np.clip(resize_map(stretched, size), 0, 1)

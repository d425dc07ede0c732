"""Saliency maps of images by a BASNet, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.device import computing_in, memory_layout
from saliency.basnet.network import BASNet
from saliency.basnet.preprocess import SIZE, preprocess, resize_map, stretch


class Predictor:
    """A BASNet on its device: batches of preprocessed images to maps.

    It is a `saliency.methods.protocol.NetworkMethod`, once it has `parameters`.

    network : moved to `device`; on a GPU into the layout channels last.
    precision : autocast to bfloat16 or float16; None computes in float32, without TF32.
    batch_size : the largest batch.
    compiled : compile the network (`torch.compile`): a minute at the start, then faster batches.
    size : side of the square input in pixels; 256 as published.
    """

    decode_side = 0  # the published resize starts from the whole image
    parameters: dict[str, Any]

    def __init__(
        self,
        network: BASNet,
        device: torch.device | str = "cpu",
        precision: torch.dtype | None = None,
        batch_size: int = 64,
        compiled: bool = False,
        size: int = SIZE,
    ) -> None:
        self.device = torch.device(device)
        self.precision, self.batch_size, self.compiled = precision, batch_size, compiled
        self.prepare = partial(preprocess, size=size)
        self.layout = memory_layout(self.device)
        network = network.eval().to(self.device, memory_format=self.layout)
        self.network = torch.compile(network) if compiled else network

    @torch.inference_mode()
    def compute(self, batch: Tensor, keys: Sequence[str] = ()) -> Tensor:
        """Return the refined output for a batch that is on the device, without waiting for it.

        batch : float32 (N, 3, S, S), images by `saliency.basnet.preprocess.preprocess`, at most
            `batch_size` of them.
        keys : of the images; they say nothing to BASNet.

        Returns probabilities, float32 (N, S, S), not yet normalised.
        """
        count = len(batch)
        if self.compiled and count < self.batch_size:
            batch = self._padded(batch)
        with computing_in(self.precision, self.device):
            return self.network(batch)[0][:count, 0]

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Stretch to [0, 1] and resize; a constant map gives zeros."""
        return np.clip(resize_map(stretch(result[None])[0], size), 0, 1)

    def _padded(self, batch: Tensor) -> Tensor:
        """The batch with zeros up to `batch_size`, so that one compilation fits all batches.

        Strides, and whether a tensor was made for inference only, count for a compilation as the
        shape does: they are those of a whole batch.
        """
        with torch.inference_mode(False):
            shape = self.batch_size, *batch.shape[1:]
            full = torch.empty(
                shape, dtype=batch.dtype, device=batch.device, memory_format=self.layout
            ).zero_()
            full[: len(batch)] = batch
        return full

    def __call__(self, batch: np.ndarray | Tensor) -> np.ndarray:
        """Return the maps of a batch from anywhere, float32 (N, S, S).

        Each is min-max normalised by itself to [0, 1]; NaN where the network's output is.
        """
        batch = torch.as_tensor(batch).to(self.device, memory_format=self.layout)
        return stretch(self.compute(batch).cpu().numpy())


def predict(
    images: Iterable[np.ndarray], network: BASNet | Predictor, size: int = SIZE
) -> Iterator[np.ndarray]:
    """Yield the saliency of images of any sizes, float32 (h, w) in [0, 1], lazily, in their order.

    images : uint8 (h, w, 3) RGB or (h, w) grayscale.
    network : a BASNet computes where it is, in float32, 16 images at a time.
    size : side of the square input in pixels; 256 as published.
    """
    if not isinstance(network, Predictor):
        device = next(network.parameters()).device
        network = Predictor(network, device, batch_size=16)
    images = iter(images)
    while some := list(islice(images, network.batch_size)):
        batch = np.stack([preprocess(image, size) for image in some])
        for image, saliency in zip(some, network(batch), strict=True):
            yield np.clip(resize_map(saliency, image.shape[:2]), 0, 1)

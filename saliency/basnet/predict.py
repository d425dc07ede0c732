"""Saliency maps of images by a BASNet, in batches."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from data.device import computing_in, memory_for, memory_layout
from saliency.basnet.network import BASNet
from saliency.basnet.preprocess import SIZE, preprocess, resize_map, stretch


class Predictor:
    """A BASNet on its device: batches of preprocessed images to maps.

    Parameters
    ----------
    network : BASNet
        Moved to `device`; on a GPU into the layout channels last.
    device : torch.device
    precision : torch.dtype or None
        Autocast to bfloat16 or float16; None computes in float32, without TF32.
    batch_size : int
        The largest batch; named when memory runs out.
    compiled : bool
        Compile the network (`torch.compile`): a minute at the start, then faster batches.
    """

    def __init__(
        self,
        network: BASNet,
        device: torch.device | str = "cpu",
        precision: torch.dtype | None = None,
        batch_size: int = 64,
        compiled: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.precision = precision
        self.batch_size = batch_size
        self.compiled = compiled
        self.layout = memory_layout(self.device)
        with memory_for(batch_size, self.device):
            network = network.eval().to(self.device, memory_format=self.layout)
        self.network = torch.compile(network) if compiled else network

    @torch.inference_mode()
    def refined(self, batch: Tensor) -> Tensor:
        """The refined output for a batch that is on the device, without waiting for it.

        Parameters
        ----------
        batch : float32 Tensor, (N, 3, S, S)
            Images by `saliency.basnet.preprocess.preprocess`, at most `batch_size` of them.

        Returns
        -------
        float32 Tensor, (N, S, S)
            Probabilities, not yet normalised.
        """
        count = len(batch)
        if self.compiled and count < self.batch_size:
            batch = self._padded(batch)
        with computing_in(self.precision, self.device):
            return self.network(batch)[0][:count, 0]

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
        """Map a batch from anywhere.

        Parameters
        ----------
        batch : float32, (N, 3, S, S)
            As for `refined`.

        Returns
        -------
        float32 array, (N, S, S)
            Every map min-max normalised by itself to [0, 1]; NaN where the network's output is.

        Raises
        ------
        UserError
            The device's memory is too small for the batch.
        """
        with memory_for(self.batch_size, self.device):
            batch = torch.as_tensor(batch).to(self.device, memory_format=self.layout)
            return stretch(self.refined(batch).cpu().numpy())


def predict(
    images: Iterable[np.ndarray], network: BASNet | Predictor, size: int = SIZE
) -> Iterator[np.ndarray]:
    """Map images of any sizes, lazily, batch by batch.

    Parameters
    ----------
    images : iterable of uint8 arrays, (h, w, 3) RGB or (h, w) grayscale
    network : BASNet or Predictor
        A BASNet computes where it is, in float32, 16 images at a time.
    size : int
        Side of the square input in pixels; 256 as published.

    Yields
    ------
    float32 array, (h, w)
        Saliency in [0, 1] at the image's size, in the order of `images`.
    """
    if not isinstance(network, Predictor):
        device = next(network.parameters()).device
        network = Predictor(network, device, batch_size=16)
    images = iter(images)
    while some := list(islice(images, network.batch_size)):
        batch = np.stack([preprocess(image, size) for image in some])
        for image, saliency in zip(some, network(batch), strict=True):
            yield np.clip(resize_map(saliency, image.shape[:2]), 0, 1)

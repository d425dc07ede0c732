"""BASNet's maps of images: what it sees of an image, as in the authors' code, and what follows."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.device import computing_in, memory_layout
from data.images import IMAGENET_MEAN, IMAGENET_STD
from saliency.basnet.network import BASNet

SIZE = 256
"""Side of the square that the published network takes, in pixels."""

_MEAN = np.array(IMAGENET_MEAN, np.float32)
_STD = np.array(IMAGENET_STD, np.float32)


def resize_image(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Resize to a square, bilinear without antialiasing, as scikit-image's ``resize(order=1)``.

    image : uint8 or float (h, w) or (h, w, 3).
    size : side of the result in pixels; the aspect is not kept.

    Returns float32 (size, size, 3), same range as `image`. Where a side is enlarged, the outermost
    pixels fade towards the zeros that the authors' resize (``mode="constant"``) puts around the
    image, but not below the image's minimum (its ``clip=True``).
    """
    height, width = image.shape[:2]
    resized = cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    if height < size or width < size:
        inside = np.outer(_inside(height, size), _inside(width, size))
        resized *= inside if resized.ndim == 2 else inside[..., None]
        resized = np.maximum(resized, image.min())
    return resized if resized.ndim == 3 else np.repeat(resized[..., None], 3, axis=2)


def _inside(source: int, size: int) -> np.ndarray:
    """How much of every target pixel's interpolation weight lies inside the source, (size,)."""
    position = (np.arange(size, dtype=np.float32) + 0.5) * (source / size) - 0.5
    outside = np.maximum(-position, 0) + np.maximum(position - (source - 1), 0)
    return 1 - outside


def normalise(resized: np.ndarray) -> np.ndarray:
    """Scale by the image's own maximum, then by ImageNet's mean and standard deviation.

    resized : float32 (h, w, 3), RGB of any range. Three equal channels count as a grayscale image,
        for which the authors use the red channel's mean and deviation on all three.

    Returns the network's input, float32 (3, h, w).
    """
    scaled = resized / (resized.max() or 1)
    gray = np.array_equal(resized[..., 0], resized[..., 1]) and np.array_equal(
        resized[..., 0], resized[..., 2]
    )
    mean, std = (_MEAN[0], _STD[0]) if gray else (_MEAN, _STD)
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1), dtype=np.float32)


def preprocess(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    """uint8 RGB (h, w, 3) or grayscale (h, w) to the network's input, float32 (3, size, size)."""
    return normalise(resize_image(image, size))


def stretch(maps: np.ndarray) -> np.ndarray:
    """Min-max normalise every map of a batch, float (N, h, w), by itself to float32 in [0, 1].

    A constant map becomes 0 (the authors divide 0 by 0).
    """
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return ((maps - low) / np.where(span > 0, span, 1)).astype(np.float32)


def resize_map(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a float32 map (h, w) to (height, width), bilinear; antialiased where it shrinks."""
    height, width = size
    if saliency.shape == (height, width):
        return saliency
    return np.asarray(Image.fromarray(saliency).resize((width, height), Image.Resampling.BILINEAR))


class Predictor:
    """A BASNet on its device: batches of preprocessed images to maps.

    It is a `saliency.methods.protocol.NetworkMethod`, once it has `parameters`.

    network : moved to `device`; on a GPU into the layout channels last.
    precision : autocast to bfloat16 or float16; None computes in float32, without TF32.
    batch_size : the largest batch.
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
        size: int = SIZE,
    ) -> None:
        self.device = torch.device(device)
        self.precision, self.batch_size = precision, batch_size
        self.prepare = partial(preprocess, size=size)
        self.layout = memory_layout(self.device)
        self.network = network.eval().to(self.device, memory_format=self.layout)

    @torch.inference_mode()
    def compute(self, batch: Tensor, keys: Sequence[str] = ()) -> Tensor:
        """Return the refined output for a batch that is on the device, without waiting for it.

        batch : float32 (N, 3, S, S), images by `preprocess`, at most
            `batch_size` of them.
        keys : of the images; they say nothing to BASNet.

        Returns probabilities, float32 (N, S, S), not yet normalised.
        """
        with computing_in(self.precision, self.device):
            return self.network(batch)[0][:, 0]

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Stretch to [0, 1] and resize; a constant map gives zeros."""
        return np.clip(resize_map(stretch(result[None])[0], size), 0, 1)

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

"""Decode a batch's JPEGs on the device and cut their views there.

The workers hand over plain JPEGs as they are (`OpenImage.jpeg`) and decode the rest;
what leaves here is the batch that they would have made alone, but for what decoders differ in.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional

from data.errors import UserError
from data.loading import Request
from pretrain.views.dataset import Batch, ViewDataset
from pretrain.views.draws import COLUMN

_SIZE = slice(COLUMN["image_height"], COLUMN["image_width"] + 1)


class DeviceDecoder:
    """Completes the batches of a `ViewDataset` with `keep_jpegs`, by torchvision's `decode_jpeg`.

    A batch with a JPEG that the device cannot decode is loaded as a worker would have: decoded on
    the CPU, or else replaced and reported.

    dataset : that made the batches.
    device : CUDA (nvJPEG), or the CPU (libjpeg-turbo, in this process).

    UserError: torchvision cannot decode on this device.
    """

    def __init__(self, dataset: ViewDataset, device: torch.device) -> None:
        _check(device)
        self._dataset = copy.copy(dataset)
        self._dataset.keep_jpegs = False
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with all of `image`, on the device."""
        if self._stream is None:
            return self._complete(batch)
        # A stream of its own has memory of its own, and waiting for it does not wait for the
        # training step.
        with torch.cuda.stream(self._stream):
            batch = self._complete(batch)
        training = torch.cuda.current_stream(self._device)
        training.wait_stream(self._stream)
        batch["image"].record_stream(training)
        return batch

    def _complete(self, batch: Batch) -> Batch:
        files = batch.pop("jpeg").split(batch.pop("jpeg_bytes").tolist())
        rows = batch.pop("jpeg_row")
        requested, epoch = batch.pop("requested"), batch.pop("epoch")
        decoded = self._decode(files)
        sizes = batch["parameters"][rows, 0, _SIZE].long().tolist()
        if decoded is None or [list(whole.shape[1:]) for whole in decoded] != sizes:
            batch = self._dataset[Request(epoch, requested.numpy())]
            return batch | {"image": batch["image"].to(self._device)}
        cut = batch["image"]  # by the workers: the other rows
        image = torch.empty(len(requested), *cut.shape[1:], dtype=cut.dtype, device=self._device)
        others = torch.ones(len(image), dtype=torch.bool)
        others[rows] = False
        image[others.nonzero()[:, 0].to(self._device)] = cut.to(self._device, non_blocking=True)
        boxes = batch["crops"].long().tolist()
        for row, whole in zip(rows.tolist(), decoded, strict=True):
            image[row] = cut_views(whole, boxes[row], image.shape[2])
        return batch | {"image": image}

    def _decode(self, files: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
        """Decode files, uint8 (bytes,), to uint8 (3, H, W) on the device; None: it cannot."""
        if not files:
            return []
        if self._stream is not None:
            # torchvision writes to new memory at once, though kernels queued on this stream may
            # still use what lay there (pytorch/vision#9606).
            self._stream.synchronize()
        try:
            return decode_jpeg(list(files), self._device)
        except RuntimeError as error:
            if self._stream is not None:
                torch.cuda.synchronize(self._device)  # raises if the device itself is at fault
            if "out of memory" in str(error):
                raise
            return None


def decode_jpeg(files: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Decode files, uint8 (bytes,) on the CPU, to uint8 (3, H, W) on the device."""
    # Not imported above: torchvision has announced that a later version will lack it.
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return decode_jpeg(files, ImageReadMode.RGB, device)


def cut_views(image: torch.Tensor, boxes: Sequence[Sequence[int]], size: int) -> torch.Tensor:
    """Cut boxes out of an image and resize them, as `data.images.crop.crop_resize` does on the CPU.

    That kernel computes in integers, which CUDA has none for; this one rounds at the end, and a
    pixel differs by one level at most.

    image : uint8 (3, H, W).
    boxes : V of (top, left, height, width) within the image.

    Returns uint8 (V, size, size, 3)
    """
    views = [
        functional.interpolate(
            image[None, :, top : top + height, left : left + width].float(),
            (size, size),
            mode="bilinear",
            antialias=True,
        )
        for top, left, height, width in boxes
    ]
    return torch.cat(views).round_().to(torch.uint8).permute(0, 2, 3, 1)


def _check(device: torch.device) -> None:
    """Decode a small JPEG, to know now that it works."""
    file = torch.from_numpy(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].reshape(-1))
    try:
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only on CUDA and the CPU")
        decode_jpeg([file], device)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"decode is 'device', and torchvision cannot decode JPEGs on {device} "
            f"({str(error).splitlines()[0]}); set it to 'workers'."
        ) from None

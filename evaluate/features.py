"""A frozen backbone: images to features, at the penultimate or any named layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.errors import UserError
from data.images.crop import centre_crop
from data.keys import Keys
from data.loading import Crop, build_plain_loader, normalise, unreadable_of
from evaluate.checkpoints import Checkpoint
from evaluate.choices import PENULTIMATE
from evaluate.to_host import to_host


class Backbone(nn.Module):
    """Images (B, 3, S, S), normalised, to features (B, D) of one layer.

    Parameters
    ----------
    checkpoint : the network; it is put into eval mode, and stays there whatever `train` is called
        with, so that batch norm uses its running statistics and does not change them
    layer : "penultimate", what the classifier reads, or a module's name such as `layer4` or
        `features.8`; maps (B, D, H, W) are averaged over positions, tokens (B, T, D) over tokens
    """

    def __init__(self, checkpoint: Checkpoint, layer: str = PENULTIMATE):
        super().__init__()
        self.model, self.source, self.layer = checkpoint.model, checkpoint.source, layer
        self._seen: Tensor | None = None
        if layer != PENULTIMATE:
            modules = dict(self.model.named_modules())
            if layer not in modules or not layer:
                choices = ", ".join(name for name, _ in self.model.named_children())
                raise UserError(
                    f"--layer {layer}: {self.source.arch} has no such module; at its top are "
                    f"{choices}, and '{PENULTIMATE}' is what its classifier reads."
                )
            modules[layer].register_forward_hook(self._keep)
        self.requires_grad_(False).eval()

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._seen = output

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) float32 -> (B, D)."""
        output = self.model(images)
        if self.layer != PENULTIMATE:
            output, self._seen = self._seen, None
            if not isinstance(output, Tensor):
                what = "is not used" if output is None else f"gives a {type(output).__name__}"
                raise UserError(
                    f"--layer {self.layer}: this module of {self.source.arch} {what}, and no "
                    "tensor; name another, such as the block around it."
                )
        if output.ndim == 4:
            return output.mean(dim=(2, 3))
        return output.mean(dim=1) if output.ndim == 3 else output

    @torch.no_grad()
    def check_size(self, size: int) -> None:
        """Refuse a side of images that the network does not take, before any is read."""
        device = next(self.model.parameters()).device
        try:
            self(torch.zeros(1, 3, size, size, device=device))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            raise UserError(
                f"--image-size {size}: {self.source.arch} does not take images of this size "
                f"({reason[:120]}); give its own, often 224."
            ) from None


@dataclass
class Features:
    """Features of the images that could be read; `rows` says which those are.

    features: (N, D) float32 in host memory; rows: (N,) int64, places in the list of keys;
    unreadable: key -> reason.
    """

    features: Tensor
    rows: np.ndarray
    unreadable: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def extract(
    backbone: Backbone,
    batches: Iterable[dict],
    total: int,
    device: torch.device,
    description: str = "features",
) -> Features:
    """Run the backbone over batches of uint8 images, in order.

    batches : as of `data.loading`: dicts of `index` (B,), `image` (B, S, S, 3), `unreadable`
    total : how many images there are, for the progress bar
    """
    backbone.to(device, memory_format=torch.channels_last)
    rows, unreadable = [], {}

    def computed() -> Iterator[Tensor]:
        for batch in batches:
            unreadable.update(unreadable_of(batch))
            if len(batch["index"]):
                rows.append(batch["index"].numpy())
                images = normalise(batch["image"].to(device, non_blocking=True))
                yield backbone(images).float()
            bar.update(len(batch["index"]) + len(batch["unreadable"]))

    with tqdm(total=total, desc=description, unit="image", disable=None) as bar:
        features = list(to_host(computed()))
    if not features:
        key, reason = next(iter(unreadable.items()))
        raise UserError(f"IMAGES: not one image can be read; '{key}': {reason}.")
    return Features(torch.cat(features), np.concatenate(rows), unreadable)


def extract_folder(
    backbone: Backbone,
    root: Path,
    keys: Keys,
    *,
    size: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    description: str = "features",
    crop: Crop = centre_crop,
) -> Features:
    """Features of the images `keys` below `root`."""
    loader = build_plain_loader(
        root,
        keys=keys,
        image_size=size,
        batch_size=batch_size,
        workers=workers,
        pin_memory=device.type == "cuda",
        crop=crop,
    )
    return extract(backbone, loader, len(keys), device, description)

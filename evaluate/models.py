"""The models that a probe is given: frozen backbones, and images through them to features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.device import pick_device, to_host
from data.errors import UserError
from data.images.crop import centre_crop
from data.images.labels import Labelled
from data.knn import Neighbours, nearest
from data.loading import (
    Batch,
    Crop,
    Loader,
    build_plain_loader,
    in_batches,
    normalise,
    unreadable_of,
)
from evaluate.checkpoints import Checkpoint, load_checkpoint
from evaluate.labelled import Split
from evaluate.masks import names_of
from evaluate.options import PENULTIMATE, NetworkOptions
from evaluate.pooling import LabelledImages, MaskPool, masked_mean
from evaluate.results import image_bar, none_readable, say

DEFAULT_SIZE = 224


class Backbone(nn.Module):
    """Images (B, 3, S, S), normalised, to features (B, D) of one layer.

    checkpoint : the network; it is in eval mode, so that batch norm uses its running statistics and
        does not change them
    layer : "penultimate", what the classifier reads, or a module's name such as `layer4` or
        `features.8`; maps (B, D, H, W) are averaged over positions, tokens (B, T, D) over tokens
    pool : whether maps are to be averaged by masks; a ResNet's penultimate features are then
        layer4's, whose plain mean they are
    """

    def __init__(self, checkpoint: Checkpoint, layer: str = PENULTIMATE, pool: bool = False):
        super().__init__()
        self.model, self.source, self.pool = checkpoint.model, checkpoint.source, pool
        self._output: Tensor | None = None
        modules = dict(self.model.named_modules())
        if pool and layer == PENULTIMATE and "layer4" in modules:
            layer = "layer4"
        self.layer = layer
        if layer != PENULTIMATE:
            if layer not in modules or not layer:
                choices = ", ".join(name for name, _ in self.model.named_children())
                raise UserError(
                    f"--layer {layer}: {self.source.arch} has no such module; at its top are "
                    f"{choices}, and '{PENULTIMATE}' is what its classifier reads."
                )
            modules[layer].register_forward_hook(self._keep)
        self.requires_grad_(False).eval()

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._output = output

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) float32, and masks (B, S, S) in [0, 1] to average by -> (B, D)."""
        output = self.model(images)
        if self.layer != PENULTIMATE:
            output, self._output = self._output, None
            if not isinstance(output, Tensor):
                what = "is not used" if output is None else f"gives a {type(output).__name__}"
                raise UserError(
                    f"--layer {self.layer}: this module of {self.source.arch} {what}, and no "
                    "tensor; name another, such as the block around it."
                )
        if masks is not None and output.ndim != 4:
            raise UserError(
                f"--pool mask: {self.layer} of {self.source.arch} is no map of the image; name a "
                "layer that is one by --layer."
            )
        if output.ndim == 4:
            return output.mean(dim=(2, 3)) if masks is None else masked_mean(output, masks)
        return output.mean(dim=1) if output.ndim == 3 else output

    @torch.no_grad()
    def dim(self, size: int) -> int:
        """How many features D an image of this side has; UserError where it does not take one."""
        device = next(self.model.parameters()).device
        try:
            image = torch.zeros(1, 3, size, size, device=device)
            return self(image, image[:, 0] if self.pool else None).shape[1]
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            raise UserError(
                f"--image-size {size}: {self.source.arch} does not take images of this size "
                f"({reason[:120]}); give its own, often 224."
            ) from None


@dataclass
class Features:
    """Features of the images that could be read.

    features : (N, D) float32 in host memory; labels : (N,) int64
    images : those N; unreadable : the others, key -> reason
    """

    features: Tensor
    labels: Tensor
    images: Labelled
    unreadable: dict[str, str]


@dataclass
class Model:
    """A backbone under the name that the user gave it or that its path gives.

    size : side of its test crop; device : where it computes
    pool : masks that its maps are averaged by; None: they are averaged plainly
    recipe : what several checkpoints have in common that were given under one name
    """

    label: str
    backbone: Backbone
    size: int
    options: NetworkOptions
    device: torch.device
    pool: MaskPool | None = None
    recipe: str = ""

    @torch.no_grad()
    def features(self, images: Labelled, part: str, crop: Crop = centre_crop) -> Features:
        """Take features; `part` names the images in the progress bar, such as "train"."""
        self.backbone.to(self.device, memory_format=torch.channels_last)
        rows, unreadable = [], {}

        def computed() -> Iterator[Tensor]:
            for batch in self.batches(images, crop=crop):
                unreadable.update(unreadable_of(batch))
                if len(batch["index"]):
                    rows.append(batch["index"].numpy())
                    yield self.features_of(batch).float()
                bar.update(len(batch["index"]) + len(batch["unreadable"]))

        with image_bar(len(images), f"{self.label} {part}") as bar:
            features = list(to_host(computed()))
        if not features:
            raise none_readable(unreadable)
        read = images.take(np.concatenate(rows)) if unreadable else images
        return Features(torch.cat(features), torch.from_numpy(read.labels), read, unreadable)

    @torch.no_grad()
    def embed(self, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
        """Features, float32 (B, D) in host memory, of batches of pictures, uint8 (B, S, S, 3)."""
        self.backbone.to(self.device, memory_format=torch.channels_last)
        on_device = (each.to(self.device, non_blocking=True) for each in pictures)
        yield from to_host(self.backbone(normalise(pixels)).float() for pixels in on_device)

    def features_of(self, batch: Batch) -> Tensor:
        """A batch through the backbone: (B, D)."""
        pixels = normalise(batch["image"].to(self.device, non_blocking=True))
        masks = self.pool.masks_of(batch, self.device) if self.pool else None
        return self.backbone(pixels, masks)

    def split_features(self, split: Split) -> tuple[Features, Features]:
        """Take features of the training and of the validation images."""
        train = self.features(split.train, "train")
        return train, train if split.leave_one_out else self.features(split.val, "val")

    def nearest(self, split: Split, most: int) -> tuple[Neighbours, Features, Features]:
        """Find the `most` nearest training images of each validation image, or all there are.

        Returns them, and the features of the training and of the validation images. UserError: an
        only image, that would be compared with all others, can be read.
        """
        train, test = self.split_features(split)
        alone = split.leave_one_out
        count = min(most, len(train.features) - int(alone))
        if count < 1:
            raise UserError("IMAGES: a single image can be read, and there is no other beside it.")
        bank, queries = train.features, test.features
        found = nearest(bank, queries, count, leave_one_out=alone, device=self.device)
        return found, train, test

    def batches(
        self, images: Labelled, most: int | None = None, crop: Crop = centre_crop
    ) -> Loader:
        """Load the images with their labels, in batches as the options say, of `most` at most."""
        size = min(self.options.batch_size, most or self.options.batch_size)
        dataset = LabelledImages(images, self.size, self.pool and self.pool.of(images), crop)
        workers, pin = self.options.loading_workers, self.device.type == "cuda"
        return Loader(dataset, in_batches(len(images), size), workers, pin_memory=pin)

    def describe(self) -> dict:
        """What a result says about this model."""
        return {
            "label": self.label,
            "recipe": self.recipe or self.label,
            **self.backbone.source.as_dict(),
            "layer": self.backbone.layer,
            "pool": "mask" if self.pool else "plain",
            "image_size": self.size,
        }


def readable(images: Labelled, options: NetworkOptions) -> tuple[Labelled, dict[str, str]]:
    """The images that can be decoded, and why the others cannot: key -> reason."""
    loader = build_plain_loader(
        images.root, keys=images.keys, image_size=1, batch_size=64, workers=options.loading_workers
    )
    rows, unreadable = [], {}
    with image_bar(len(images), "reading") as bar:
        for batch in loader:
            rows.append(batch["index"].numpy())
            unreadable |= unreadable_of(batch)
            bar.update(len(batch["index"]) + len(batch["unreadable"]))
    if len(unreadable) == len(images):
        raise none_readable(unreadable)
    return images.take(np.concatenate(rows)), unreadable


def load_models(
    checkpoints: tuple[str, ...],
    options: NetworkOptions,
    device: torch.device | None = None,
    pool: MaskPool | None = None,
) -> list[Model]:
    """Load a command line's checkpoints, `NAME=CHECKPOINT` or `CHECKPOINT`; say what they are.

    device : where they compute; None takes the one of the options.
    pool : masks that maps are averaged by.
    """
    device = pick_device(options.device) if device is None else device
    models = []
    for label, path, recipe in labelled_paths(checkpoints):
        loaded = load_checkpoint(path, options.arch)
        say(loaded.source.describe())
        backbone = Backbone(loaded, options.layer, pool is not None)
        size = options.image_size or loaded.source.trained_size or DEFAULT_SIZE
        backbone.dim(size)  # refuses a size before any image is read
        models.append(Model(label, backbone, size, options, device, pool, recipe))
    return models


def common_size(models: list[Model]) -> int:
    """The side of all models' crops; UserError where they differ."""
    size, *others = sorted({model.size for model in models})
    if others:
        raise UserError(
            f"the models were trained at different sizes ({', '.join(map(str, [size, *others]))}), "
            "and are compared on the same pictures; add --image-size."
        )
    return size


def with_untrained(models: list[Model]) -> list[Model]:
    """The models, and after them the untrained network of each architecture that is not there.

    What it reaches, any architecture of the kind reaches by itself: no merit of the training.
    """
    there = {m.backbone.source.arch for m in models if m.backbone.source.untrained}
    lacking = {m.backbone.source.arch: m for m in models if m.backbone.source.arch not in there}
    added = []
    for arch, model in lacking.items():
        backbone = Backbone(load_checkpoint(f"random:{arch}"), model.options.layer)
        label = "untrained" if len(lacking) == 1 else f"untrained {arch}"
        added.append(Model(label, backbone, model.size, model.options, model.device))
    return [*models, *added]


def labelled_paths(checkpoints: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return label, path and recipe of each `NAME=CHECKPOINT` or `CHECKPOINT` of a command line.

    A NAME given several times is a recipe's, and its checkpoints are `NAME 1`, `NAME 2`, ...
    """
    given = [_named(text) for text in checkpoints]
    paths = [path for _, path in given]
    tails = names_of([Path(path) for path in paths])
    recipes = [name or tail for (name, _), tail in zip(given, tails, strict=True)]
    labels = list(recipes)
    for number, ((name, _), recipe) in enumerate(zip(given, recipes, strict=True)):
        if name and recipes.count(recipe) > 1:
            labels[number] = f"{recipe} {recipes[: number + 1].count(recipe)}"
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"CHECKPOINT: two of them are called '{label}'; name one by NAME=CHECKPOINT."
            )
    return list(zip(labels, paths, recipes, strict=True))


def _named(text: str) -> tuple[str | None, str]:
    name, equals, path = text.partition("=")
    if equals and name and path and "/" not in name and not Path(text).exists():
        return name, path
    return None, text

"""The models that a probe is given, and how images go through them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from data.errors import UserError
from data.images.crop import centre_crop
from data.loading import Crop
from evaluate import processes
from evaluate.checkpoints import Checkpoint, Source, load_checkpoint
from evaluate.features import Backbone, Features, extract_folder
from evaluate.labelled import Labelled
from evaluate.masks import names_of
from evaluate.options import say

DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Settings:
    """How images go through a network, the same for every probe."""

    layer: str
    image_size: int | None
    batch_size: int
    workers: int
    device: torch.device

    def size_for(self, source: Source) -> int:
        """The side of the test crop: as asked, or as the backbone was trained, or 224."""
        return self.image_size or trained_size(source) or DEFAULT_SIZE


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" takes an accelerator where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and processes.count() > 1:
        return torch.device(
            name
        )  # `pretrain.parts.distributed.world` gives each process its own GPU
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # "meta" computes nothing, and fails here
    except (RuntimeError, AssertionError, ImportError):
        raise UserError(f"--device {name} is not on this machine; try --device cpu.") from None
    return device


def trained_size(source: Source) -> int | None:
    """The size of views that a backbone of ours was trained at, from its configuration."""

    def find(node: object) -> int | None:
        if not isinstance(node, dict):
            return None
        if isinstance(node.get("image_size"), int):
            return node["image_size"]
        return next((size for inner in node.values() if (size := find(inner))), None)

    return find(source.config)


@dataclass
class Model:
    """A backbone under the name that the user gave it or that its path gives."""

    label: str
    backbone: Backbone
    size: int  # side of its test crop

    def features(
        self, images: Labelled, settings: Settings, part: str, crop: Crop = centre_crop
    ) -> tuple[Features, torch.Tensor]:
        """Features of the images that can be read, and their labels, int64 (N,).

        `part` names the images in the progress bar, such as "train".
        """
        found = extract_folder(
            self.backbone,
            images.root,
            images.keys,
            size=self.size,
            batch_size=settings.batch_size,
            workers=settings.workers,
            device=settings.device,
            description=f"{self.label} {part}",
            crop=crop,
        )
        return found, torch.from_numpy(images.labels[found.rows])

    def describe(self) -> dict:
        """What a result says about this model."""
        return {
            "label": self.label,
            **self.backbone.source.as_dict(),
            "layer": self.backbone.layer,
            "image_size": self.size,
        }


def load_models(checkpoints: tuple[str, ...], settings: Settings, arch: str | None) -> list[Model]:
    """Load a command line's checkpoints, `NAME=CHECKPOINT` or `CHECKPOINT`; say what they are."""
    given = [_named(text) for text in checkpoints]
    paths = [path for _, path in given]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"CHECKPOINT {path} is named twice; name it once.")
    tails = names_of([Path(path) for path in paths])
    labels = [name or tail for (name, _), tail in zip(given, tails, strict=True)]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"CHECKPOINT: two of them are called '{label}'; name one by NAME=CHECKPOINT."
            )
    models = []
    for label, path in zip(labels, paths, strict=True):
        loaded: Checkpoint = load_checkpoint(path, arch)
        say(loaded.source.describe())
        backbone = Backbone(loaded, settings.layer)
        size = settings.size_for(loaded.source)
        backbone.check_size(size)
        models.append(Model(label, backbone, size))
    return models


def _named(text: str) -> tuple[str | None, str]:
    name, equals, path = text.partition("=")
    if equals and name and path and "/" not in name and not Path(text).exists():
        return name, path
    return None, text

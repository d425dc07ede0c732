"""Options and arguments that several probes share, and how they speak to the user."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from data.errors import UserError
from evaluate.checkpoints import Checkpoint, Source, load_checkpoint
from evaluate.features import PENULTIMATE, Backbone
from evaluate.masks import names_of

DEFAULT_SIZE = 224


def say(text: str) -> None:
    """Tell the user something that is not the result: on stderr, so that `--json` stays JSON."""
    click.echo(text, err=True)


def out_options(command: Callable) -> Callable:
    """`--out FOLDER` and `--overwrite`."""
    for option in (
        click.option(
            "--overwrite", is_flag=True, help="Replace results that are in the folder --out."
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Folder for the results.  [default: probe-output/<command>-<number>]",
        ),
    ):
        command = option(command)
    return command


def json_option(command: Callable) -> Callable:
    """`--json`: print JSON in place of the table."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the results as JSON in place of the table."
    )(command)


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


def network_options(command: Callable) -> Callable:
    """Options on how images go through networks, given to the command as one `Settings`."""

    def wrapped(*args, layer, image_size, batch_size, workers, device, **kwargs):
        if workers is None:
            workers = min(len(os.sched_getaffinity(0)), 16)
        settings = Settings(layer, image_size, batch_size, workers, choose_device(device))
        return command(*args, settings=settings, **kwargs)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])
    for option in (
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps."),
        click.option(
            "--workers",
            type=click.IntRange(0),
            help="Processes that load images.  [default: one for each core, at most 16]",
        ),
        click.option(
            "--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Images."
        ),
        click.option(
            "--image-size",
            type=click.IntRange(16),
            help="Side of the centre crop, after a resize of the short side to 256/224 of it.  "
            "[default: the size that a checkpoint of pretrain was trained at, else 224]",
        ),
        click.option(
            "--layer",
            default=PENULTIMATE,
            show_default=True,
            help="Which features: a module's name, such as layer4; maps are averaged over space.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


arch_option = click.option(
    "--arch", help="Torchvision's name of the network, where the weights do not tell."
)


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" takes an accelerator where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
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
    models = []
    for label, path in zip(labels, paths, strict=True):
        loaded: Checkpoint = load_checkpoint(path, arch)
        say(loaded.source.describe())
        backbone = Backbone(loaded, settings.layer)
        models.append(Model(label, backbone, settings.size_for(loaded.source)))
    return models


def _named(text: str) -> tuple[str | None, str]:
    name, equals, path = text.partition("=")
    if equals and name and path and "/" not in name and not Path(text).exists():
        return name, path
    return None, text

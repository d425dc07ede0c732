"""Options and arguments that several probes share, and how they speak to the user.

Nothing here loads torch, so that `--help` and mistyped options answer at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from evaluate.choices import MASK_THRESHOLD, PENULTIMATE
from evaluate.processes import speaks


def say(text: str) -> None:
    """Tell the user something that is not the result: on stderr, so that `--json` stays JSON.

    Of several processes the first says it.
    """
    if speaks():
        click.echo(text, err=True)


def say_unreadable(unreadable: dict[str, str]) -> None:
    """Name the images that were left out: key -> reason."""
    for key, reason in unreadable.items():
        say(f"left out, cannot be read: {key}: {reason}")


FLOAT32_MAX = 3.4e38


class FiniteRange(click.FloatRange):
    """Numbers in a range that float32 holds: neither `nan` nor `inf`, which click lets through."""

    def convert(self, value, parameter, context):
        """The number, or a usage error."""
        number = super().convert(value, parameter, context)
        if not abs(number) <= FLOAT32_MAX:
            self.fail(f"{value} is not a finite number.", parameter, context)
        return number


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


def network_options(command: Callable) -> Callable:
    """Options on how images go through networks, given to the command as one `Settings`.

    The command runs in full float32: see `data.tf32`.
    """

    def wrapped(*args, layer, image_size, batch_size, workers, device, **kwargs):
        from data.loading_workers import usable_cores
        from data.tf32 import without_tf32
        from evaluate.models import Settings, choose_device  # takes seconds to import

        if workers is None:
            workers = min(usable_cores(), 16)
        settings = Settings(layer, image_size, batch_size, workers, choose_device(device))
        with without_tf32():
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


mask_threshold_option = click.option(
    "--mask-threshold",
    type=click.IntRange(1, 255),
    default=MASK_THRESHOLD,
    show_default=True,
    help="A mask is foreground from this level on.",
)
masks_option = click.option(
    "--masks", type=click.Path(path_type=Path), help="Mask shards or pictures."
)
arch_option = click.option(
    "--arch", help="Torchvision's name of the network, where the weights do not tell."
)

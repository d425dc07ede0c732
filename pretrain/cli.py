"""`pretrain`: from images and masks to a pretrained backbone, by one command."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import click

from data.options import Command, Option, Record, one_of, options, parse_assignment, setting
from data.run import Run
from pretrain.methods import METHODS
from pretrain.settings import Settings, build_settings, describe_settings, read_config

_EPILOG = """\b
Examples:
  pretrain photos --masks masks --out run --arch resnet18 --epochs 50
  pretrain photos --masks masks --out run --config configs/paper.toml --row table2a-rbd
  pretrain photos --out run --resume
  torchrun --nproc-per-node 8 -m pretrain photos --masks masks --out run
"""
_OPTIONS = (  # settings with an option of their own; all others by --set
    "device", "workers", "seed", "compile", "arch", "epochs", "batch_size", "lr", "image_size",
    "masks", "paste_probability", "background", "background_pool", "blend", "allow_missing_masks",
)  # fmt: skip


class _CommandLine(Record):
    """What the command takes besides settings."""

    out: str = setting(..., "folder of the run", heading="Run", metavar="RUN")
    resume: bool = setting(
        False, "continue where RUN stopped; start if nothing is there", heading="Run"
    )
    config: str | None = setting(
        None, "settings to start from; see configs/", heading="Run", metavar="TOML"
    )
    row: str | None = setting(
        None, "section of that file with the settings, such as table2a-rbd", heading="Run",
        metavar="ROW",
    )  # fmt: skip
    assignments: tuple[str, ...] = setting(
        (), "any setting, such as --set image_size=64; wins over all else; may be repeated",
        names=("--set",), heading="Run", metavar="NAME=VALUE",
    )  # fmt: skip
    method: Annotated[str, one_of(METHODS)] | None = setting(
        None, "pretraining method", heading="Method", shown_default=next(iter(METHODS))
    )
    negatives: str | None = setting(
        None, "the method's negatives of a sample; see --settings", heading="Method",
        metavar="K|all",
    )  # fmt: skip


def _list_settings(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print every setting with its default and meaning."""
    if value and not context.resilient_parsing:
        click.echo(describe_settings())
        context.exit()


@click.command(
    cls=Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("images")
@options(_CommandLine, into="line")
@click.option(
    "--settings",
    cls=Option,
    heading="Run",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_settings,
    help="List every setting with its default, and exit.",
)
@options(Settings, into="given", only=_OPTIONS, layered=True)
def main(images: str, line: _CommandLine, given: dict[str, Any]) -> None:
    """Pretrain a backbone on IMAGES (a folder, tar, zip or Hugging Face dataset), no labels.

    Objects are copied by their saliency masks, pasted on other backgrounds, and told apart by
    a method of contrast (DiLo, arXiv 2004.06638); or a relative of it is trained, by --method.
    RUN gets the configuration, metrics.jsonl, TensorBoard events, checkpoints, pictures, and at
    the end backbone.pt in torchvision's names.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # keys may hold what a terminal cannot show
    run = Run(line.out)
    layers = [run.saved()] if line.resume and run.started() else []
    if line.config is not None:
        layers.append(read_config(line.config, line.row))
    of_method = line.model_dump(include={"method", "negatives"}, exclude_none=True)
    layers.append({"images": images, **given, **of_method})
    layers += [parse_assignment(text, Settings) for text in line.assignments]
    settings = build_settings(*layers)

    from pretrain.trainer import train  # only now: it takes seconds

    outcome = train(settings, line.out, resume=line.resume)
    if outcome.interrupted:
        sys.exit(130)  # as a shell reports Ctrl-C; SIGTERM's 0 tells a cluster that all is well

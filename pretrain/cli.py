"""`pretrain`: from images and masks to a pretrained backbone, by one command."""

from __future__ import annotations

import sys
from typing import Any, get_args

import click

from data.backgrounds import BACKGROUNDS
from data.errors import ToldCommand
from data.run import Run
from pretrain.settings import Settings, build_settings, parse_assignment, read_toml

_EPILOG = """\b
Examples:
  pretrain photos --masks masks --out run --arch resnet18 --epochs 50
  pretrain photos --masks masks --out run --config configs/table3-resnet50-rbd.toml
  pretrain photos --out run --resume
  torchrun --nproc-per-node 8 -m pretrain photos --masks masks --out run
"""


class _Command(ToldCommand):
    """Options under headings."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Run": []}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and record[1]:  # IMAGES is explained in the text above
                heading = getattr(parameter, "heading", "Run")
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class _Option(click.Option):
    def __init__(self, *names: Any, heading: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.heading = heading


def _choices(name: str) -> tuple[str, ...]:
    """Return the values that a setting may have."""
    return get_args(Settings.model_fields[name].annotation)


def _option(heading: str, *names: str, **options: Any):
    """Return an option under a heading, without a default, which would override a TOML file."""
    return click.option(*names, cls=_Option, heading=heading, **options)


def _negatives(context: click.Context, parameter: click.Parameter, value: str | None):
    return int(value) if value is not None and value.isdecimal() else value


def _list_settings(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print every setting with its type, default and meaning."""
    if value and not context.resilient_parsing:
        defaults = build_settings({})
        for name, field in Settings.model_fields.items():
            default = getattr(defaults, name)
            click.echo(f"{name} = {'' if default is None else default}\n    {field.description}")
        context.exit()


@click.command(
    cls=_Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("images")
@_option("Run", "--out", required=True, metavar="RUN", help="Folder of the run.")
@_option(
    "Run", "--resume", is_flag=True, help="Go on where RUN stopped; start if nothing is there."
)
@_option("Run", "--config", metavar="TOML", help="Settings to start from; see configs/.")
@_option(
    "Run",
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any setting, such as --set image_size=64; wins over all else. May be repeated.",
)
@_option(
    "Run",
    "--settings",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_settings,
    help="List every setting with its default, and exit.",
)
@_option("Run", "--device", help="auto, cpu, cuda, cuda:1, ...  [auto]")
@_option("Run", "--workers", type=int, help="Loading processes.  [share of the cores]")
@_option("Run", "--seed", type=int, help="Of everything random.  [0]")
@_option("Run", "--compile/--no-compile", default=None, help="torch.compile the network.")
@_option("Method", "--method", type=click.Choice(_choices("method")), help="[instdisc]")
@_option("Method", "--arch", type=click.Choice(_choices("arch")), help="Backbone.  [resnet50]")
@_option(
    "Method",
    "--negatives",
    callback=_negatives,
    metavar="K|all",
    help="Negatives of a sample; all: the exact softmax over the bank.  [4096; moco 65536]",
)
@_option("Method", "--epochs", type=int, help="Passes over the images.  [200]")
@_option("Method", "--batch-size", type=int, help="Images a step, over all processes.  [256]")
@_option("Method", "--lr", type=float, help="Learning rate at a batch of 256.  [0.03]")
@_option("Method", "--image-size", type=int, help="Side of a view in pixels.  [224]")
@_option("Copy-paste", "--masks", metavar="FOLDER", help="Mask shards of IMAGES.")
@_option(
    "Copy-paste",
    "--paste-probability",
    type=float,
    help="Of pasting a view's foreground on a background; 0 needs no masks.  [0.5]",
)
@_option(
    "Copy-paste",
    "--background",
    type=click.Choice(list(BACKGROUNDS)),
    help="What is pasted on.  [grayscale]",
)
@_option(
    "Copy-paste",
    "--background-pool",
    metavar="PATH",
    help="Folder of textures, or pool of `mask-shards backgrounds`.",
)
@_option(
    "Copy-paste",
    "--blend",
    type=click.Choice(_choices("blend")),
    help="Blending of the mask's border.  [none]",
)
@_option(
    "Copy-paste",
    "--allow-missing-masks",
    is_flag=True,
    default=None,
    help="Use images that have no mask, unpasted.",
)
def main(
    out: str, resume: bool, config: str | None, assignments: tuple[str, ...], **options: Any
) -> None:
    """Pretrain a backbone on the folder IMAGES, without labels.

    Objects are copied by their saliency masks, pasted on other backgrounds, and told apart by
    instance discrimination or MoCo (DiLo, arXiv 2004.06638). RUN gets the configuration,
    metrics.jsonl, TensorBoard events, checkpoints, pictures, and at the end backbone.pt in
    torchvision's names.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # keys may hold what a terminal cannot show
    run = Run(out)
    layers = [run.saved()] if resume and run.started() else []
    if config is not None:
        layers.append(read_toml(config))
    layers.append({name: value for name, value in options.items() if value is not None})
    layers += [parse_assignment(text) for text in assignments]
    settings = build_settings(*layers)

    # Only now what takes seconds to import.
    from data.knn import weighted_knn
    from pretrain.trainer import train

    outcome = train(settings, out, resume=resume, classify=weighted_knn)
    if outcome.interrupted:
        sys.exit(130)  # as a shell reports Ctrl-C; SIGTERM's 0 tells a cluster that all is well

"""The command `saliency-compute`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import AfterValidator, Field

from data.errors import UserError
from data.files import only_writer
from data.images.limits import MAX_SIDE
from data.images.listing import OddEndings, list_images
from data.keys import Keys
from data.options import (
    Command,
    Count,
    Jobs,
    Record,
    Share,
    build,
    option_name,
    options,
    setting,
)
from data.processes import stop_on_signals
from saliency.methods import METHODS
from saliency.methods.protocol import NetworkMethod, NetworkSettings, PixelSettings

if TYPE_CHECKING:
    from saliency.batch import Plan


def _methods(text: str) -> str:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise ValueError(f"choose from {', '.join(METHODS)}")
        if METHODS[name].by_network and len(names) > 1:
            raise ValueError(f"{name} goes alone; run it by itself")
    return ",".join(names)


def _part(text: str) -> str:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ValueError("give i/n with 1 <= i <= n, such as 3/16")
    return text


class Settings(Record):
    """Arguments and options of the command; each method adds its own."""

    images: Path = setting(
        ..., "folder of images, or a tar, zip or Hugging Face dataset", argument=True
    )
    out: Path = setting(..., "folder of mask shards", argument=True)
    method: Annotated[str, AfterValidator(_methods)] = setting(
        next(iter(METHODS)),
        "see below. Several methods per pixel share superpixels and decoding; the shards of each "
        "go into a folder of its name below OUT",
        metavar="NAME[,NAME...]",
    )
    max_side: Annotated[int, Field(ge=0, le=MAX_SIDE)] = setting(
        400,
        "working resolution: larger images are scaled down to this long side; 0 scales none, and "
        f"those of a side above {MAX_SIDE:,} get no mask",
    )
    jobs: Jobs = setting(-1, "worker processes; -1: as many as cores")
    part: Annotated[str, AfterValidator(_part)] = setting(
        "1/1",
        "make only every N-th shard, from the I-th: for array jobs on a shared file system",
        metavar="I/N",
    )
    shard_size: Count = setting(4096, "images a shard")
    compression: Literal["zstd", "gzip"] = setting("zstd", "of masks")
    limit: Count | None = setting(None, "only the first so many images, in order of keys")
    overwrite: bool = setting(
        False,
        "first delete the shards that OUT holds, with --part those of this part. To resume such a "
        "run, leave it out",
    )
    max_failures: Share = setting(0.01, "exit with 1 when a larger share of the images has no mask")
    backend: Literal["processes", "dask", "ray"] = setting(
        "processes",
        "where the workers are. Dask and Ray: pip install 'dilo[dask]' or 'dilo[ray]'",
        heading="Methods per pixel",
    )
    scheduler: str | None = setting(
        None,
        "of a running Dask scheduler or Ray head",
        metavar="ADDRESS",
        heading="Methods per pixel",
    )

    @property
    def methods(self) -> list[str]:
        return self.method.split(",")


def _method_options(command: Callable) -> Callable:
    """Add the options of every registered method; the command gets a record of each method."""
    known: set[str] = set()
    decorators = []
    for name, method in METHODS.items():
        own = [field for field in method.record.model_fields if field not in known]
        known.update(own)
        decorators.append(options(method.record, into=name, only=own))
    for decorate in reversed(decorators):  # the last decorator's options come first
        command = decorate(command)
    return command


def _epilog() -> str:
    """List the methods, with the options that only they have."""
    lines = ["\b", "Methods:"]
    for name, method in METHODS.items():
        common = NetworkSettings if method.by_network else PixelSettings
        own = [
            (field.json_schema_extra["names"] or (option_name(option),))[0]
            for option, field in method.record.model_fields.items()
            if option not in common.model_fields
        ]
        also = f"; {', '.join(own)}" if own else ""
        lines.append(f"  {name:9} {method.summary}{also}")
    return "\n".join(lines)


@click.command(
    cls=Command, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_epilog()
)
@options(Settings)
@_method_options
def main(settings: Settings, **records: Record) -> None:
    """Compute a saliency mask for every image below IMAGES, into mask shards in OUT.

    IMAGES is any folder tree of images, such as ImageNet's train/<wnid>/*.JPEG, a tar or zip of
    one, or a Hugging Face dataset on disk. Run the same command again after an interruption: it
    makes only the shards that are missing. Look at the result with mask-shards.

    \b
    Examples:
      saliency-compute photos masks
      saliency-compute photos masks --method NAME --weights network.pth
      mask-shards gallery masks --images photos -o gallery.html
    """
    given = {
        name: getattr(record, name)
        for record in records.values()
        for name in record.model_fields_set
    }
    check_options(settings, given)
    try:
        compute_masks(settings, given)
    except KeyboardInterrupt as interruption:
        again = "without --overwrite" if settings.overwrite else "again"
        click.echo(
            f"\nStopped. Finished shards are kept: run the same command {again} to go on.",
            err=True,
        )
        sys.exit(128 + (interruption.args or (2,))[0])


def check_options(settings: Settings, given: dict[str, Any]) -> None:
    """Raise UserError for an option, given here, that the methods do not have."""
    records = [METHODS[name].record for name in settings.methods]
    foreign = [name for name in given if not any(name in r.model_fields for r in records)]
    if METHODS[settings.methods[0]].by_network:
        foreign += [name for name in ("backend", "scheduler") if name in settings.model_fields_set]
    if foreign:
        option = option_name(foreign[0])
        raise UserError(f"{option} does not belong to --method {settings.method}; leave it out.")


def compute_masks(settings: Settings, given: dict[str, Any]) -> None:
    """Do the command's work, and say what was made.

    given : settings of the methods, by name, as `check_options` lets them pass.

    Raises UserError. KeyboardInterrupt: stopped; its argument is the signal's number. SystemExit:
    more than `max_failures` of the images have no mask.
    """
    from saliency.batch import make_shards
    from saliency.workers import Workers

    odd = OddEndings()
    keys = list_images(settings.images, odd)
    for sentence in odd.told():
        click.echo(sentence, err=True)
    network, plan = _plan(settings, given, keys)
    workers = Workers(settings.jobs, settings.backend, settings.scheduler)
    compute, device = workers.compute, ""
    if network is not None:
        from saliency.device_stage import DeviceStage

        compute, device = DeviceStage(network, workers.jobs), f" on {network.device}"
    click.echo(
        f"{len(plan.keys)} images, method {', '.join(settings.methods)}{device}, "
        f"{plan.shard_count} shards of up to {plan.shard_size}, {workers.jobs} workers",
        err=True,
    )
    started = time.monotonic()
    part = f"{plan.part}-of-{plan.parts}"
    with closing(workers), only_writer(settings.out, "OUT", part), stop_on_signals() as stop:
        summary = make_shards(plan, compute, stop=stop)
    click.echo(summary.report(settings.out, time.monotonic() - started))
    if network is not None and summary.images:
        click.echo(f"{network.device} waited for images {compute.waiting_share:.0%} of the time.")
    if summary.rows and summary.failed / summary.rows > settings.max_failures:
        click.echo(
            f"{summary.failed} of {summary.rows} images have no mask, more than --max-failures "
            f"{settings.max_failures:g}.",
            err=True,
        )
        sys.exit(1)


def _plan(
    settings: Settings, given: dict[str, Any], keys: Keys
) -> tuple[NetworkMethod | None, Plan]:
    """Load the network, or compile the kernels; plan the shards of the first `--limit` keys."""
    from saliency.batch import Plan

    names, out = settings.methods, settings.out
    method = METHODS[names[0]]
    network = map_function = None
    if method.by_network:
        network = method.load().build(build(method.record, given, label=option_name), keys)
        parameters = {names[0]: network.parameters}
    else:
        from saliency.maps import choose, compile_kernels, compute_maps

        chosen = choose(names, given)
        compile_kernels(chosen, partial(click.echo, err=True))
        map_function = partial(compute_maps, chosen=chosen)
        parameters = {name: each.settings.model_dump(mode="json") for name, each in chosen.items()}
    part, parts = map(int, settings.part.split("/"))
    common = {"max_side": settings.max_side, "orientation": "upright (EXIF applied)"}
    plan = Plan(
        images=settings.images,
        keys=keys[: settings.limit],
        folders={name: out / name if len(names) > 1 else out for name in names},
        parameters={name: common | parameters[name] for name in names},
        map_function=map_function,
        max_side=settings.max_side,
        shard_size=settings.shard_size,
        compression=settings.compression,
        part=part,
        parts=parts,
        overwrite=settings.overwrite,
    )
    return network, plan

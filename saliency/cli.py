"""The command `saliency-compute`."""

import sys
import time
from functools import partial
from pathlib import Path

import click

from data.errors import UserError
from data.images.decode import list_images
from data.options import number_of_jobs
from saliency.learned_options import LEARNED, build_method, check_options, learned_options
from saliency.side_limit import MAX_SIDE
from saliency.stopping import stop_by_signals

UNSUPERVISED = ("rbd", "mc", "gs")


def parse_methods(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    """Read a comma-separated list of methods."""
    methods = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in methods:
        if name not in UNSUPERVISED + LEARNED:
            known = ", ".join(UNSUPERVISED + LEARNED)
            raise UserError(f"--method {name}: choose from {known}.")
        if name in LEARNED and len(methods) > 1:
            raise UserError(f"--method {text}: {name} goes alone; run it by itself.")
    return methods


def parse_part(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, int]:
    """Read 'i/n'."""
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise UserError(f"--part {text}: give i/n with 1 <= i <= n, such as 3/16.")
    return part, parts


def parse_superpixels(context: click.Context, parameter: click.Parameter, text: str) -> str:
    """Check a superpixel count: 'auto', 'authors', '250' or '600px'."""
    from saliency.unsupervised import SuperpixelCount

    try:
        SuperpixelCount.parse(text)
    except ValueError:
        raise UserError(
            f"--superpixels {text}: give a number an image (250), pixels a superpixel (600px), "
            "auto or authors."
        ) from None
    return text


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--method",
    "methods",
    default="rbd",
    show_default=True,
    callback=parse_methods,
    help="rbd, mc or gs; or several, as in rbd,gs: these share superpixels and decoding, and each "
    "method's shards go into a folder of its name below OUT. Or, with --weights, basnet, cam or "
    "gradient.",
)
@click.option(
    "--max-side",
    type=click.IntRange(0, MAX_SIDE),
    default=400,
    show_default=True,
    help="Working resolution: larger images are scaled down to this long side; 0 scales none, and "
    f"those of a side above {MAX_SIDE:,} get no mask.",
)
@click.option(
    "--superpixels",
    default="auto",
    show_default=True,
    callback=parse_superpixels,
    metavar="N|Npx|auto|authors",
    help="Superpixels an image (250), or pixels a superpixel (600px). 'authors' is 600px for rbd "
    "and gs, 250 for mc; 'auto' the same, but 200 to 600 an image.",
)
@click.option("--remove-frame", is_flag=True, help="Give artificial picture frames saliency 0.")
@click.option(
    "--follow-edges",
    is_flag=True,
    help="Refine masks by a guided filter: higher max F, higher mean error (docs/saliency.md).",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=-1),
    default=-1,
    show_default=True,
    callback=number_of_jobs,
    help="Worker processes; -1: one a core.",
)
@click.option(
    "--part",
    default="1/1",
    show_default=True,
    callback=parse_part,
    metavar="I/N",
    help="Make only every N-th shard, from the I-th: for array jobs on a shared file system.",
)
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Images a shard.",
)
@click.option(
    "--compression", type=click.Choice(["zstd", "gzip"]), default="zstd", show_default=True
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Only the first so many images, in order of keys."
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace shards that OUT already holds, each when its new one is whole.",
)
@click.option(
    "--max-failures",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Exit with 1 when a larger share of the images has no mask.",
)
@click.option(
    "--backend",
    type=click.Choice(["processes", "dask", "ray"]),
    default="processes",
    show_default=True,
    help="Where the workers are. Dask and Ray: pip install 'dilo[dask]' or 'dilo[ray]'.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of a running Dask scheduler or Ray head.")
@learned_options
@click.pass_context
def main(
    context: click.Context,
    images: Path,
    out: Path,
    methods: tuple[str, ...],
    max_side: int,
    superpixels: str,
    remove_frame: bool,
    follow_edges: bool,
    jobs: int,
    part: tuple[int, int],
    shard_size: int,
    compression: str,
    limit: int | None,
    overwrite: bool,
    max_failures: float,
    backend: str,
    scheduler: str | None,
    **learned,
) -> None:
    """Compute a saliency mask for every image below IMAGES, into mask shards in OUT.

    IMAGES is any folder tree of images, such as ImageNet's train/<wnid>/*.JPEG. Run the same
    command again after an interruption: it makes only the shards that are missing. Look at the
    result with mask-shards.

    \b
    Examples:
      saliency-compute photos masks --method rbd
      saliency-compute photos masks --method basnet --weights basnet.pth
      mask-shards gallery masks --images photos -o gallery.html
    """
    if not check_options(context, methods):
        learned = None
    stop_by_signals()
    try:
        _run(
            images, out, methods, max_side, superpixels, remove_frame, follow_edges, jobs, part,
            shard_size, compression, limit, overwrite, max_failures, backend, scheduler, learned,
        )  # fmt: skip
    except KeyboardInterrupt as interruption:
        click.echo(
            "\nStopped. Finished shards are kept: run the same command again to go on.", err=True
        )
        sys.exit(128 + interruption.args[0])


def _run(
    images, out, methods, max_side, superpixels, remove_frame, follow_edges, jobs, part,
    shard_size, compression, limit, overwrite, max_failures, backend, scheduler, learned,
) -> None:  # fmt: skip
    from saliency.batch import make_shards
    from saliency.plan import Plan
    from saliency.summary import report
    from saliency.workers import Workers

    everything = list_images(images)
    keys = everything if limit is None else everything[:limit]
    method, map_function = None, None
    if learned is None:
        map_function, parameters = _unsupervised(methods, superpixels, remove_frame, follow_edges)
    else:
        method, parameters = build_method(methods[0], everything, **learned)
    plan = Plan(
        images=images,
        keys=keys,
        folders={name: out / name if len(methods) > 1 else out for name in methods},
        parameters={
            "max_side": max_side,
            **parameters,
            "orientation": "upright (EXIF applied)",
        },
        map_function=map_function,
        max_side=max_side,
        shard_size=shard_size,
        compression=compression,
        part=part[0],
        parts=part[1],
        overwrite=overwrite,
    )
    workers = Workers(jobs, backend, scheduler)
    stage = None
    if method is not None:
        from saliency.learned import LearnedStage

        stage = LearnedStage(method, workers.jobs)
    where = "" if method is None else f" on {method.device}"
    click.echo(
        f"{len(keys)} images, method {', '.join(methods)}{where}, {plan.shard_count} shards of up "
        f"to {shard_size}, {workers.jobs} workers",
        err=True,
    )
    started = time.monotonic()
    try:
        summary = make_shards(plan, workers.run, compute_blocks=stage)
    finally:
        workers.close()
    click.echo(report(summary, out, time.monotonic() - started))
    if stage is not None and summary.images:
        click.echo(f"{method.device} waited for images {stage.waiting_share:.0%} of the time.")
    if summary.rows and summary.failed / summary.rows > max_failures:
        click.echo(
            f"{summary.failed} of {summary.rows} images have no mask, more than --max-failures "
            f"{max_failures:g}.",
            err=True,
        )
        sys.exit(1)


def _unsupervised(
    methods: tuple[str, ...], superpixels: str, remove_frame: bool, follow_edges: bool
) -> tuple[partial, dict]:
    """The map function of these methods, compiled, and what of it shapes a mask."""
    from saliency.regions.refine import check_contrib
    from saliency.unsupervised import (
        SuperpixelCount,
        compile_kernels,
        compute,
        kernels_are_compiled,
    )

    if follow_edges:
        check_contrib()
    if not kernels_are_compiled():
        click.echo("Compiling the kernels, once after installation (about 15 s) ...", err=True)
    compile_kernels(methods)
    map_function = partial(
        compute,
        methods=methods,
        superpixels=SuperpixelCount.parse(superpixels),
        remove_frame=remove_frame,
        follow_edges=follow_edges,
    )
    return map_function, {
        "superpixels": superpixels,
        "remove_frame": remove_frame,
        "follow_edges": follow_edges,
    }

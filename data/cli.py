"""`mask-shards`: look into mask shards, verify, export, import."""

import json
from pathlib import Path

import click
from tabulate import tabulate

from data.backgrounds.make_pool import backgrounds
from data.errors import ToldGroup
from data.files import only_writer
from data.keys import printable
from data.masks.format import COMPRESSIONS, Status
from data.masks.index import build_index
from data.masks.read import MaskShards
from data.masks.summary import as_table, summarise
from data.masks.transfer import export_masks, import_masks
from data.masks.verify import verify
from data.options import (
    FOLDER,
    Jobs,
    Record,
    images_option,
    options,
    overwrite_option,
    progress_bar,
    setting,
)
from data.pictures_cli import gallery, show

_SHOWN = 10  # how many keys or problems a command names before it only counts them


@click.group(cls=ToldGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look into mask shards, the HDF5 files that hold saliency masks; verify, export, import.

    OUT is a folder of shards, as saliency-compute writes it. A KEY is an image's path relative to
    the image folder.
    """


@main.command()
@click.argument("out", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def info(out: Path, as_json: bool) -> None:
    """What is inside OUT: method, parameters, counts, sizes, coverage, failures."""
    masks = MaskShards(out, partial=True)
    summary = summarise(masks)
    if as_json:
        facts = {"method": masks.method, "parameters": masks.parameters, "software": masks.software}
        click.echo(json.dumps({**facts, **summary}, indent=2))
        return
    click.echo(tabulate(as_table(masks, summary), tablefmt="plain", disable_numparse=True))
    if summary["poor"]:
        click.echo(
            "\ntoo poor to paste (`pretrain --set paste_coverage=0.05,0.9` leaves the first "
            "two kinds unpasted), such as:"
        )
        for key, why in summary["poor_examples"]:
            click.echo(f"  {printable(key)}: {why}")
    if summary["failures"]:
        failed = summary["counts"]["unreadable"] + summary["counts"]["failed"]
        click.echo(f"\nno mask for {failed:,} images:")
        for key, status, error in summary["failures"]:
            click.echo(f"  {printable(key)}: {status}, {error}")
        if failed > len(summary["failures"]):
            click.echo(f"  and {failed - len(summary['failures']):,} more")
    if summary["shards"] < summary["shard_count"]:
        click.echo("\nShards are missing; the command that wrote these makes the others.")


class VerifyOptions(Record):
    """How shards are checked."""

    jobs: Jobs = setting(1, "processes; -1: one per core")


@main.command("verify")
@click.argument("out", type=FOLDER)
@images_option
@options(VerifyOptions)
@click.pass_context
def verify_command(
    context: click.Context, out: Path, images: Path | None, settings: VerifyOptions
) -> None:
    """Check every checksum, count and key in OUT.

    With --images also find images without a mask and masks without an image. Exits with 0 when the
    shards are sound, also where they record images that failed; with 1 when something is wrong.
    """
    report = verify(out, images, settings.jobs, progress_bar("verify"))
    for sentence in report.problems:
        click.echo(f"problem: {sentence}")
    for what, keys in (
        ("images have no mask", report.without_mask),
        ("masks have no image", report.without_image),
    ):
        if keys:
            shown = ", ".join(repr(key) for key in keys[:_SHOWN])
            click.echo(f"problem: {len(keys):,} {what}: {shown}{', ...' * (len(keys) > _SHOWN)}")
    for sentence in report.notes:
        click.echo(f"note: {sentence}")
    counts = ", ".join(f"{count:,} {kind.name.lower()}" for kind, count in report.counts.items())
    click.echo(f"{report.shards:,} shards, {report.images:,} images: {counts}.")
    failed = report.counts[Status.UNREADABLE] + report.counts[Status.FAILED]
    if report.sound:
        but = f" {failed:,} images have no mask; `mask-shards info` names some." if failed else ""
        click.echo(f"Sound.{but}")
    else:
        click.echo("Not sound.")
        context.exit(1)


@main.command()
@click.argument("out", type=FOLDER)
def index(out: Path) -> None:
    """Make OUT/index.h5 anew: all shards as one virtual dataset, and the table of keys."""
    click.echo(build_index(out))


@main.command("export")
@click.argument("out", type=FOLDER)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--full-size", is_flag=True, help="Scale masks to their images' sizes.")
@overwrite_option
def export_command(out: Path, folder: Path, full_size: bool, overwrite: bool) -> None:
    """Write every mask in OUT to DIR/KEY.png, 8-bit gray."""
    masks = MaskShards(out)
    with only_writer(folder, "DIR"):
        count = export_masks(masks, folder, full_size, overwrite, progress_bar("export"))
    without = len(masks) - count
    click.echo(f"{count:,} masks in {folder}" + (f"; {without:,} images have none" * bool(without)))


@main.command("import")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--images", type=FOLDER, required=True, help="The images that the masks are of.")
@click.option("--method", default="import", show_default=True, help="The name to record.")
@click.option(
    "--max-side",
    default=400,
    show_default=True,
    help="Cap of a mask's long side, 1 to 65535; 0: none.",
)
@click.option("--shard-size", default=4096, show_default=True, help="Images in a shard.")
@click.option(
    "--compression", type=click.Choice(list(COMPRESSIONS)), default="zstd", show_default=True
)
@overwrite_option
def import_command(folder: Path, out: Path, **options) -> None:
    """Make shards in OUT of another tool's masks in DIR.

    Killed, the same command goes on where it stopped.

    The mask of the image a/b.jpg is DIR/a/b.jpg.png or DIR/a/b.png, or ends in another way: gray,
    white the foreground; or 0 and 1; or labels with a colour palette, as VOC has them, where all
    but black is foreground; or a cut-out, of which the transparency counts. It has its image's
    shape, at any size.
    """
    with only_writer(out, "OUT"):
        masks = import_masks(folder, out, progress=progress_bar("import"), **options)
    failed = int((masks.statuses() > Status.FLAT).sum())
    but = f"; {failed:,} images have no mask (`mask-shards info {out}` says why)" if failed else ""
    click.echo(f"{len(masks) - failed:,} masks in {out}{but}")


for command in (show, gallery, backgrounds):
    main.add_command(command)

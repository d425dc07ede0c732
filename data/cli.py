"""`mask-shards`: look into mask shards, verify, export, import, show."""

import json
import shutil
import sys
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from data.backgrounds.pool import backgrounds
from data.errors import ToldGroup, UserError
from data.files import only_writer, refuse_existing
from data.gallery import Gallery
from data.gallery.masks import mask_gallery, two_abreast
from data.gallery.terminal import row_as_text
from data.images.archives import is_folder
from data.keys import printable
from data.masks.format import Status
from data.masks.index import build_index
from data.masks.read import MaskShards
from data.masks.summary import as_table, summarise
from data.masks.transfer import ImportSettings, export_masks, import_masks
from data.masks.verify import verify
from data.options import (
    FOLDER,
    Count,
    Jobs,
    NotNegative,
    Record,
    images_option,
    options,
    overwrite_option,
    progress_bar,
    setting,
)

_SIDE = 400  # of the pictures of `show`
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
@options(ImportSettings)
@overwrite_option
def import_command(folder: Path, out: Path, settings: ImportSettings, overwrite: bool) -> None:
    """Make shards in OUT of another tool's masks in DIR.

    Killed, the same command goes on where it stopped.

    The mask of the image a/b.jpg is DIR/a/b.jpg.png or DIR/a/b.png, or ends in another way: gray,
    white the foreground; or 0 and 1; or labels with a colour palette, as VOC has them, where all
    but black is foreground; or a cut-out, of which the transparency counts. It has its image's
    shape, at any size.
    """
    with only_writer(out, "OUT"):
        masks = import_masks(folder, out, settings, overwrite, progress_bar("import"))
    failed = int((masks.statuses() > Status.FLAT).sum())
    but = f"; {failed:,} images have no mask (`mask-shards info {out}` says why)" if failed else ""
    click.echo(f"{len(masks) - failed:,} masks in {out}{but}")


main.add_command(backgrounds)


# ---- masks beside their images -------------------------------------------------------------------


@main.command()
@click.argument("out", type=FOLDER)
@click.argument("key")
@images_option
@click.option("-o", "--output", type=FOLDER, help="A PNG file; without it, the terminal.")
@overwrite_option
def show(out: Path, key: str, images: Path | None, output: Path | None, overwrite: bool) -> None:
    """Show the mask of KEY beside its image: in a PNG file or the terminal."""
    _check_images(images)
    masks = MaskShards(out, partial=True)
    if key not in masks:
        raise UserError(f"there is no mask of {key!r} in {str(out)!r}; KEY is relative to IMAGES.")
    if output is not None:
        _check_output(output, (".png",), overwrite)
    gallery = mask_gallery([key], [masks], images, _SIDE)
    if output is not None:
        _write(output, gallery, _SIDE)
    elif sys.stdout.isatty():
        click.echo(row_as_text(gallery.rows[0], shutil.get_terminal_size().columns))
    else:
        raise UserError("there is no terminal here; name a picture to write with -o FILE.png.")


class GalleryOptions(Record):
    """Which images a gallery shows."""

    count: Count = setting(24, "how many images")
    random: bool = setting(False, "draw them; else evenly spread")
    seed: NotNegative = setting(0, "of --random")
    failures: bool = setting(False, "only images without a mask")
    key: tuple[str, ...] = setting((), "this image; can be given again")


@main.command()
@click.argument("out", type=FOLDER, nargs=-1, required=True)
@images_option
@click.option(
    *("-o", "--output"),
    type=FOLDER,
    required=True,
    multiple=True,
    help="PAGE.html or SHEET.png; can be given again.",
)
@options(GalleryOptions, into="which")
@overwrite_option
def gallery(
    out: tuple[Path, ...],
    images: Path | None,
    output: tuple[Path, ...],
    which: GalleryOptions,
    overwrite: bool,
) -> None:
    """Image | mask | foreground on grey, many on a page or a sheet.

    Several OUT stand side by side, to compare their methods.
    """
    _check_images(images)
    for path in output:
        _check_output(path, (".html", ".htm", ".png"), overwrite)
    sets = [MaskShards(folder, partial=True) for folder in out]
    keys = choose(sets, which)
    content = mask_gallery(progress_bar("gallery")(keys, len(keys)), sets, images, 300)
    for path in output:
        sheet = len(sets) == 1 and path.suffix.lower() == ".png"
        _write(path, two_abreast(content) if sheet else content, 240)


def choose(sets: list[MaskShards], which: GalleryOptions) -> list[str]:
    """Return the keys to show, of the first set's."""
    first = sets[0]
    if which.key:
        for key in which.key:
            if not any(key in masks for masks in sets):
                raise UserError(f"--key {key!r} is not in {str(first.folder)!r}; check its path.")
        return list(which.key)
    rows = np.arange(len(first))
    if which.failures:
        rows = np.flatnonzero(first.statuses() > Status.FLAT)
        if not len(rows):
            raise UserError(f"--failures: every image in {str(first.folder)!r} has a mask.")
    count = min(which.count, len(rows))
    if which.random:
        rows = np.sort(np.random.default_rng(which.seed).choice(rows, count, replace=False))
    else:
        rows = rows[np.linspace(0, len(rows) - 1, count, dtype=int)]
    return [first.keys[row] for row in rows.tolist()]


def _check_images(images: Path | None) -> None:
    if images is not None and not is_folder(images):
        raise UserError(f"--images {str(images)!r} is not a folder; give the masks' images.")


def _check_output(path: Path, kinds: tuple[str, ...], overwrite: bool) -> None:
    if path.suffix.lower() not in kinds:
        raise UserError(f"--output {str(path)!r} does not end in {' or '.join(kinds)}; name it so.")
    refuse_existing(path, overwrite)


def _write(path: Path, content: Gallery, side: int) -> None:
    if path.suffix.lower() == ".png":
        content.save_png(path, side=side)
    else:
        content.save_html(path)
    click.echo(path)

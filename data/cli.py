"""`mask-shards`: look into mask shards, verify, export, import."""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from data.backgrounds_cli import backgrounds
from data.errors import UserError
from data.index import build_index
from data.keys import printable
from data.mask_shards import MaskShards
from data.page import make_page
from data.panels import Row, headings, make_row
from data.pending_file import PendingFile
from data.shard_format import COMPRESSIONS, Status
from data.sheet import draw_sheet
from data.summary import as_table, summarise
from data.terminal import half_blocks
from data.transfer import export_masks, import_masks
from data.verify import verify

_SHOWN = 10  # how many keys or problems a command names before it only counts them

_folder = click.Path(path_type=Path)
_images = click.option("--images", type=_folder, help="The folder of images the masks are of.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace files that are there.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look into mask shards, the HDF5 files that hold saliency masks; verify, export, import.

    OUT is a folder of shards, as saliency-compute writes it. A KEY is an image's path relative to
    the image folder.
    """


def _bar(what: str):
    """Return a progress function; its bar shows only on a terminal."""

    def progress(steps: Iterable, total: int) -> Iterable:
        return tqdm(steps, what, total, unit="", disable=None, leave=False)

    return progress


@main.command()
@click.argument("out", type=_folder)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def info(out: Path, as_json: bool) -> None:
    """What is inside OUT: method, parameters, counts, sizes, coverage, failures."""
    masks = MaskShards(out, partial=True)
    summary = summarise(masks)
    if as_json:
        facts = {"method": masks.method, "parameters": masks.parameters, "software": masks.software}
        click.echo(json.dumps({**facts, **asdict(summary)}, indent=2))
        return
    click.echo(tabulate(as_table(masks, summary), tablefmt="plain", disable_numparse=True))
    if summary.failures:
        failed = summary.counts["unreadable"] + summary.counts["failed"]
        click.echo(f"\nno mask for {failed:,} images:")
        for key, status, error in summary.failures:
            click.echo(f"  {printable(key)}: {status}, {error}")
        if failed > len(summary.failures):
            click.echo(f"  and {failed - len(summary.failures):,} more")
    if summary.shards < summary.shard_count:
        click.echo("\nShards are missing; the command that wrote these makes the others.")


@main.command("verify")
@click.argument("out", type=_folder)
@_images
@click.option("--jobs", default=1, show_default=True, help="Processes; -1: one per core.")
@click.pass_context
def verify_command(context: click.Context, out: Path, images: Path | None, jobs: int) -> None:
    """Check every checksum, count and key in OUT.

    With --images also find images without a mask and masks without an image. Exits with 0 when the
    shards are sound, also where they record images that failed; with 1 when something is wrong.
    """
    report = verify(out, images, jobs, _bar("verify"))
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
@click.argument("out", type=_folder)
def index(out: Path) -> None:
    """Make OUT/index.h5 anew: all shards as one virtual dataset, and the table of keys."""
    click.echo(build_index(out))


@main.command()
@click.argument("out", type=_folder)
@click.argument("key")
@_images
@click.option("-o", "--output", type=_folder, help="A PNG file; without it, the screen.")
@_overwrite
def show(out: Path, key: str, images: Path | None, output: Path | None, overwrite: bool) -> None:
    """Show the mask of KEY beside its image: in a PNG file, a window, or the terminal."""
    masks = MaskShards(out, partial=True)
    if key not in masks:
        raise UserError(f"there is no mask of {key!r} in {str(out)!r}; KEY is relative to IMAGES.")
    row = make_row(key, [masks], images, 400)
    sheet = draw_sheet([row], headings([masks]), side=400)
    if output is not None:
        _write_picture(output, sheet, overwrite)
    elif _has_display():
        sheet.show(title=key)
    elif sys.stdout.isatty():
        click.echo(half_blocks(_side_by_side(row), shutil.get_terminal_size().columns))
        click.echo("  ".join([printable(key), *(panel.note for panel in row.panels)]))
    else:
        raise UserError("there is no screen here; name a picture to write with -o FILE.png.")


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def _side_by_side(row: Row) -> np.ndarray:
    """Return a row's pictures beside each other, (h, w, 3)."""
    pictures = [row.image, *(p for panel in row.panels for p in (panel.mask, panel.foreground))]
    there = [
        np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture
        for picture in pictures
        if picture is not None
    ]
    if not there:
        raise UserError(f"{row.key!r} has nothing to show: {row.panels[0].note}.")
    return np.hstack(there)


@main.command()
@click.argument("out", type=_folder, nargs=-1, required=True)
@_images
@click.option("-o", "--output", type=_folder, required=True, help="PAGE.html or SHEET.png.")
@click.option("--count", default=24, show_default=True, help="How many images.")
@click.option("--random", "at_random", is_flag=True, help="Draw them; else evenly spread.")
@click.option("--seed", default=0, show_default=True, help="Of --random.")
@click.option("--failures", is_flag=True, help="Only images without a mask.")
@click.option("--key", "keys", multiple=True, help="This image; can be given again.")
@_overwrite
def gallery(
    out: tuple[Path, ...],
    images: Path | None,
    output: Path,
    count: int,
    at_random: bool,
    seed: int,
    failures: bool,
    keys: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Image | mask | foreground on grey, many on a page or a sheet.

    Several OUT stand side by side, to compare their methods.
    """
    kind = output.suffix.lower()
    if kind not in (".html", ".htm", ".png"):
        raise UserError(f"--output {str(output)!r} ends neither in .html nor in .png; name it so.")
    if count < 1:
        raise UserError(f"--count {count} is no number of images; give 1 or more.")
    _refuse(output, overwrite)
    sets = [MaskShards(folder, partial=True) for folder in out]
    chosen = _choose(sets, count, seed if at_random else None, failures, keys)
    steps = _bar("gallery")(chosen, len(chosen))
    rows = [make_row(key, sets, images, 300) for key in steps]
    if kind == ".png":
        _write_picture(output, draw_sheet(rows, headings(sets)), overwrite)
        return
    lines = [
        f"{heading}: {len(masks):,} images, "
        + ", ".join(f"{name} {value}" for name, value in masks.parameters.items())
        for heading, masks in zip(headings(sets), sets, strict=True)
    ]
    lines.append(
        "A mask is white where the method sees foreground. The foreground is the image over grey, "
        "with the mask as its opacity."
    )
    title = f"{len(rows)} of {len(sets[0]):,} images and their saliency masks"
    _write(output, make_page(rows, headings(sets), title, lines).encode(), overwrite)


def _choose(
    sets: list[MaskShards], count: int, seed: int | None, failures: bool, keys: tuple[str, ...]
) -> list[str]:
    """Return the keys to show, of the first set's."""
    first = sets[0]
    if keys:
        for key in keys:
            if not any(key in masks for masks in sets):
                raise UserError(f"--key {key!r} is not in {str(first.folder)!r}; check its path.")
        return list(keys)
    rows = np.arange(len(first))
    if failures:
        rows = np.flatnonzero(first.statuses() > Status.FLAT)
        if not len(rows):
            raise UserError(f"--failures: every image in {str(first.folder)!r} has a mask.")
    count = min(count, len(rows))
    if seed is not None:
        picked = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
    else:
        picked = rows[np.linspace(0, len(rows) - 1, count, dtype=int)]
    return [first.keys[row] for row in picked.tolist()]


def _refuse(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UserError(f"{str(path)!r} is there already; name another, or give --overwrite.")


def _write(path: Path, content: bytes, overwrite: bool) -> None:
    _refuse(path, overwrite)
    file = PendingFile(path)
    file.write(content)
    file.publish()
    click.echo(path)


def _write_picture(path: Path, picture: Image.Image, overwrite: bool) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"--output {str(path)!r} does not end in .png; name it so.")
    _refuse(path, overwrite)
    file = PendingFile(path)
    picture.save(file, "PNG")
    file.publish()
    click.echo(path)


@main.command("export")
@click.argument("out", type=_folder)
@click.argument("folder", metavar="DIR", type=_folder)
@click.option("--full-size", is_flag=True, help="Scale masks to their images' sizes.")
@_overwrite
def export_command(out: Path, folder: Path, full_size: bool, overwrite: bool) -> None:
    """Write every mask in OUT to DIR/KEY.png, 8-bit gray."""
    masks = MaskShards(out)
    count = export_masks(masks, folder, full_size, overwrite, _bar("export"))
    without = len(masks) - count
    click.echo(f"{count:,} masks in {folder}" + (f"; {without:,} images have none" * bool(without)))


@main.command("import")
@click.argument("folder", metavar="DIR", type=_folder)
@click.argument("out", type=_folder)
@click.option("--images", type=_folder, required=True, help="The images that the masks are of.")
@click.option("--method", default="import", show_default=True, help="The name to record.")
@click.option(
    "--max-side", default=400, show_default=True, help="Cap of a mask's long side; 0: none."
)
@click.option("--shard-size", default=4096, show_default=True, help="Images in a shard.")
@click.option(
    "--compression", type=click.Choice(list(COMPRESSIONS)), default="zstd", show_default=True
)
@_overwrite
def import_command(folder: Path, out: Path, **options) -> None:
    """Make shards in OUT of another tool's masks in DIR.

    The mask of the image a/b.jpg is DIR/a/b.jpg.png or DIR/a/b.png: gray, white the foreground.
    """
    for name in ("max_side", "shard_size"):
        if options[name] < (name == "shard_size"):
            raise UserError(
                f"--{name.replace('_', '-')} {options[name]} is too small; give a larger number."
            )
    masks = import_masks(folder, out, progress=_bar("import"), **options)
    failed = int((masks.statuses() > Status.FLAT).sum())
    but = f"; {failed:,} images have no mask (`mask-shards info {out}` says why)" if failed else ""
    click.echo(f"{len(masks) - failed:,} masks in {out}{but}")


main.add_command(backgrounds)

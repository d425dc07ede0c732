"""`mask-shards show` and `gallery`: masks beside their images."""

import os
import shutil
import sys
from pathlib import Path

import click
import numpy as np
from PIL import Image

from data.errors import UserError
from data.files import replacing, write_whole
from data.gallery.page import make_page
from data.gallery.panels import Row, headings, make_row
from data.gallery.sheet import draw_sheet
from data.gallery.terminal import half_blocks
from data.keys import printable
from data.masks.format import Status
from data.masks.read import MaskShards
from data.options import FOLDER, images_option, overwrite_option, progress_bar


@click.command()
@click.argument("out", type=FOLDER)
@click.argument("key")
@images_option
@click.option("-o", "--output", type=FOLDER, help="A PNG file; without it, the screen.")
@overwrite_option
def show(out: Path, key: str, images: Path | None, output: Path | None, overwrite: bool) -> None:
    """Show the mask of KEY beside its image: in a PNG file, a window, or the terminal."""
    _check_images(images)
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


@click.command()
@click.argument("out", type=FOLDER, nargs=-1, required=True)
@images_option
@click.option("-o", "--output", type=FOLDER, required=True, help="PAGE.html or SHEET.png.")
@click.option("--count", default=24, show_default=True, help="How many images.")
@click.option("--random", "at_random", is_flag=True, help="Draw them; else evenly spread.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of --random."
)
@click.option("--failures", is_flag=True, help="Only images without a mask.")
@click.option("--key", "keys", multiple=True, help="This image; can be given again.")
@overwrite_option
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
    _check_images(images)
    _refuse(output, overwrite)
    sets = [MaskShards(folder, partial=True) for folder in out]
    chosen = _choose(sets, count, seed if at_random else None, failures, keys)
    steps = progress_bar("gallery")(chosen, len(chosen))
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


def _check_images(images: Path | None) -> None:
    if images is not None and not images.is_dir():
        raise UserError(f"--images {str(images)!r} is not a folder; give the masks' images.")


def _refuse(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UserError(f"{str(path)!r} is there already; name another, or give --overwrite.")


def _write(path: Path, content: bytes, overwrite: bool) -> None:
    _refuse(path, overwrite)
    write_whole(path, content)
    click.echo(path)


def _write_picture(path: Path, picture: Image.Image, overwrite: bool) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"--output {str(path)!r} does not end in .png; name it so.")
    _refuse(path, overwrite)
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")
    click.echo(path)

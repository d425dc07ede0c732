"""`mask-shards show` and `gallery`: masks beside their images."""

import os
import shutil
import sys
from pathlib import Path

import click
import numpy as np

from data.errors import UserError
from data.files import refuse_existing
from data.gallery import Gallery
from data.gallery.masks import mask_gallery, two_abreast
from data.gallery.terminal import row_as_text
from data.images.archives import is_folder
from data.masks.format import Status
from data.masks.read import MaskShards
from data.options import (
    FOLDER,
    Count,
    NotNegative,
    Record,
    images_option,
    options,
    overwrite_option,
    progress_bar,
)
from data.options import setting as option

_SIDE = 400  # of the pictures of `show`


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
    if output is not None:
        _check_output(output, (".png",), overwrite)
    gallery = mask_gallery([key], [masks], images, _SIDE)
    if output is not None:
        _write(output, gallery, _SIDE)
    elif _has_display():
        gallery.draw(side=_SIDE).show(title=key)
    elif sys.stdout.isatty():
        click.echo(row_as_text(gallery.rows[0], shutil.get_terminal_size().columns))
    else:
        raise UserError("there is no screen here; name a picture to write with -o FILE.png.")


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


class GalleryOptions(Record):
    """Which images a gallery shows."""

    count: Count = option(24, "how many images")
    random: bool = option(False, "draw them; else evenly spread")
    seed: NotNegative = option(0, "of --random")
    failures: bool = option(False, "only images without a mask")
    key: tuple[str, ...] = option((), "this image; can be given again")


@click.command()
@click.argument("out", type=FOLDER, nargs=-1, required=True)
@images_option
@click.option("-o", "--output", type=FOLDER, required=True, help="PAGE.html or SHEET.png.")
@options(GalleryOptions, into="which")
@overwrite_option
def gallery(
    out: tuple[Path, ...], images: Path | None, output: Path, which: GalleryOptions, overwrite: bool
) -> None:
    """Image | mask | foreground on grey, many on a page or a sheet.

    Several OUT stand side by side, to compare their methods.
    """
    _check_images(images)
    _check_output(output, (".html", ".htm", ".png"), overwrite)
    sets = [MaskShards(folder, partial=True) for folder in out]
    keys = choose(sets, which)
    content = mask_gallery(progress_bar("gallery")(keys, len(keys)), sets, images, 300)
    if len(sets) == 1 and output.suffix.lower() == ".png":
        content = two_abreast(content)
    _write(output, content, 240)


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

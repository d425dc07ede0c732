"""Options that several commands of `mask-shards` share, and their progress bar."""

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from tqdm import tqdm

FOLDER = click.Path(path_type=Path)
images_option = click.option("--images", type=FOLDER, help="The folder of images the masks are of.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that are there.")


def progress_bar(what: str) -> Callable[[Iterable, int], Iterable]:
    """Return a progress function; its bar shows only on a terminal."""

    def progress(steps: Iterable, total: int) -> Iterable:
        return tqdm(steps, what, total, unit="", disable=None, leave=False)

    return progress

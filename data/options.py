"""What several commands share: options, their checks, and a progress bar."""

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from tqdm import tqdm

from data.errors import UserError

FOLDER = click.Path(path_type=Path)
images_option = click.option("--images", type=FOLDER, help="The folder of images the masks are of.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that are there.")


def number_of_jobs(context: click.Context, parameter: click.Parameter, jobs: int) -> int:
    """Refuse --jobs 0, as the callback of that option."""
    if jobs == 0:
        raise UserError("--jobs 0: give the number of processes, or -1 for one a core.")
    return jobs


def progress_bar(what: str) -> Callable[[Iterable, int], Iterable]:
    """Return a progress function; its bar shows only on a terminal."""

    def progress(steps: Iterable, total: int) -> Iterable:
        return tqdm(steps, what, total, unit="", disable=None, leave=False)

    return progress

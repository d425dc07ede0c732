"""A probe's report, its folder of results, and what it says on stderr."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from tqdm import tqdm

from data.errors import UserError
from data.files import draft_folder, only_writer
from data.keys import printable_lines
from evaluate.intervals import Estimate, Spread, over_seeds

if TYPE_CHECKING:
    from data.gallery import Gallery
    from pretrain.parts.distributed import World

RESULTS = "results.json"
DRAFT = "results"  # name of the hidden folder
SOFTWARE = ("dilo", "numpy", "torch", "torchvision", "pysodmetrics")  # figures depend on it

NAMED = 5  # images that are named on the terminal


@dataclass
class Report:
    """What a probe gives; JSON, table and page are made of it.

    content : of `results.json`, plain values, paths or NumPy's
    table : rows of the terminal's table, as `tabled` takes them
    sentences : below the table
    notes : for stderr, such as the images that were left out
    gallery : `index.html`, and `<probe>.png` with its first `rows` rows
    recipes : which recipe each row of the table is of; `results.json` then has their `means`
    """

    content: dict[str, Any]
    table: list[dict[str, Any]]
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gallery: Gallery | None = None
    rows: int = 0
    recipes: list[str] = field(default_factory=list)


class Results:
    """Files of one probe, collected in a hidden folder until all are written."""

    def __init__(self, command: str, folder: Path, draft: Path) -> None:
        self.command, self.folder, self._draft = command, folder, draft
        self.afterwards: list[Callable[[], None]] = []  # done when the results are published

    def path(self, name: str) -> Path:
        """Where to write the file `name`."""
        return self._draft / name

    def publish(self, report: Report) -> str:
        """Add the report's JSON and pictures, move all files into the folder; return the JSON.

        The report's table gets its cells as they are shown, and rows of the recipes' means.
        """
        report.table, means = tabled(report.table, report.recipes)
        if report.gallery is not None:
            report.gallery.table = report.table
            report.gallery.save_html(self.path("index.html"))
            report.gallery.save_png(self.path(f"{self.command}.png"), report.rows)
        content = {"command": f"probe {self.command}", "software": software(), **report.content}
        content |= {"means": means} if report.recipes else {}
        text = json.dumps(content, indent=2, default=_plain, ensure_ascii=False) + "\n"
        # a file's name may hold bytes that are no UTF-8
        self.path(RESULTS).write_text(text, encoding="utf-8", errors="backslashreplace")
        # the JSON last: it vouches for the rest
        for path in sorted(self._draft.iterdir(), key=lambda path: path.name == RESULTS):
            os.replace(path, self.folder / path.name)
        for action in self.afterwards:
            action()
        return text


@contextlib.contextmanager
def results_in(
    folder: Path | None, command: str, overwrite: bool = False, own: tuple[str, ...] = ()
) -> Iterator[Results]:
    """Lend a `Results` for the block; without `publish` nothing is left behind.

    folder : where the results go; None takes the next numbered folder below `probe-output`
    overwrite : replace results that are there; a folder with anything else is refused in any case
    own : what the command itself may have left there, unfinished
    """
    folder = next_folder(command) if folder is None else folder
    if os.environ.get("RANK", "0") != "0":  # torchrun's first process writes for all
        yield Results(command, folder, folder)
        return
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if RESULTS in held and not overwrite:
        raise UserError(f"--out {folder} holds results; name another folder or add --overwrite.")
    temporary = (f".{DRAFT}.", ".writer.")  # of killed processes; a living one is refused below
    foreign = {name for name in held - set(own) if not name.startswith(temporary)}
    if RESULTS not in held and foreign:
        raise UserError(
            f"--out {folder} holds files that are no results of probe, such as {min(foreign)}; "
            "name another folder."
        )
    with only_writer(folder, "--out"), draft_folder(folder, DRAFT) as draft:
        yield Results(command, folder, draft)


def next_folder(command: str) -> Path:
    """The first of `probe-output/<command>-001`, `-002`, ... that does not exist."""
    folders = (Path("probe-output", f"{command}-{number:03d}") for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def software() -> dict[str, str]:
    """Versions of what the figures depend on; a package that is not installed is left out."""
    versions = {}
    for name in SOFTWARE:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _plain(value: Any) -> Any:
    """NumPy's values and paths as JSON takes them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


# ---- what is said --------------------------------------------------------------------------------


def several() -> bool:
    """Whether torchrun started more than one process for this work, on all hosts together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_several(what: str) -> None:
    """Raise a UserError where several processes would do the same and write the same files."""
    if several():
        raise UserError(
            f"probe {what} runs in one process, and WORLD_SIZE is {os.environ['WORLD_SIZE']}, as "
            "under torchrun; start it without torchrun, which is for probe linear and probe detect."
        )


@contextlib.contextmanager
def processes(options: Any) -> Iterator[World]:
    """Join torchrun's processes, or be the only one; for probes that share their work.

    options : `out` and `device`
    """
    from data.device import pick_device
    from pretrain.parts.distributed import world

    if options.out is None and several():
        raise UserError("--out is needed under torchrun: all processes must agree on one folder.")
    # each process asks for the last one's GPU, so that the first tells where it is missing
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    pick_device(options.device, count - 1, count)
    with world(options.device) as here:
        yield here


def say(text: str) -> None:
    """Tell the user what is not the result, on stderr; of torchrun's processes one a host does."""
    if os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0":
        click.echo(printable_lines(text), err=True)


def image_bar(total: int, description: str) -> tqdm:
    """A progress bar over images, quiet where the output is no terminal."""
    return tqdm(total=total, desc=description, unit="image", disable=None)


def unreadable_notes(unreadable: dict[str, str]) -> list[str]:
    """Sentences that name the images that were left out: key -> reason."""
    return [f"left out, cannot be read: {key}: {reason}" for key, reason in unreadable.items()]


def left_out_notes(label: str, left_out: dict[str, str], what: str = "left out") -> list[str]:
    """Sentences on images without masks that can be used, by reason: key -> reason."""
    kinds: dict[str, list[str]] = {}
    for key, reason in left_out.items():
        kinds.setdefault(reason.split(":")[0], []).append(key)
    return [f"{label}: {what}, {reason}: {some(keys)}" for reason, keys in kinds.items()]


def some(keys: list[str]) -> str:
    """The first few keys, and how many more there are; the JSON has all."""
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def none_readable(unreadable: dict[str, str]) -> UserError:
    """What to raise where no image can be read: key -> reason."""
    key, reason = next(iter(unreadable.items()))
    return UserError(f"IMAGES: not one image can be read; '{key}': {reason}.")


def cells(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """A table's row, title -> value of that key, or its `Estimate`, for `tabled`."""

    def value(key: str) -> Any:
        interval = row.get(f"{key}_interval")
        return row[key] if interval is None else Estimate(row[key], *interval)

    return {title: value(key) for title, key in columns.items()}


def tabled(
    rows: list[dict[str, Any]], recipes: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows as a table shows them, and each recipe's mean over its checkpoints, for the JSON, too.

    rows : title -> value; a title that ends in % has a share in [0, 1], or an `Estimate` of one,
        which is shown with its interval, or its `Spread`
    recipes : which recipe each row is of; two words of one recipe are two recipes

    A mean is shown ± its standard error over the checkpoints, and only where there are several.
    """
    table = [{title: _shown(title, value) for title, value in row.items()} for row in rows]
    means: list[dict[str, Any]] = []
    for recipe in dict.fromkeys(recipes):
        members = [row for row, own in zip(rows, recipes, strict=True) if own == recipe]
        if len(members) < 2:
            continue
        shown, mean = {}, {"recipe": recipe, "checkpoints": len(members)}
        for title in members[0]:
            values = [getattr(row[title], "value", row[title]) for row in members]
            if title.endswith("%") and None not in values:
                mean[title], error = over_seeds(values)
                mean[f"{title}, standard error"] = error
                shown[title] = f"{percent(mean[title], 1)} ± {percent(error, 1)}"
            else:
                shown[title] = values[0] if values.count(values[0]) == len(values) else ""
        shown[next(iter(shown))] = f"{recipe}: mean of {len(members)}"
        table.append(shown)
        means.append(mean)
    return table, means


def _shown(title: str, value: Any) -> Any:
    if isinstance(value, Estimate):
        shown, low, high = (percent(number, 1) for number in value)
        return f"{shown} [{low}, {high}]"
    if isinstance(value, Spread):
        return " ± ".join(map(percent, value))
    return percent(value) if title.endswith("%") else value


def by_difference(values: np.ndarray) -> np.ndarray:
    """In which order a page shows N images, by a figure of each in every model: (models, N).

    Those on which the models differ most come first; with one model, its smallest figures. Images
    without one, NaN, are the last.
    """
    spread = values.max(0) - values.min(0) if len(values) > 1 else -values[0]
    return np.argsort(-np.where(np.isnan(spread), -np.inf, spread), kind="stable")


def percent(share: float | None, digits: int = 2) -> str:
    """A share in [0, 1] as a table shows it, in percent; empty where there is none."""
    return "" if share is None else f"{100 * share:.{digits}f}"

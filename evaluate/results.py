"""A probe's report, its folder of results, and what it tells: once, on stderr.

The folder is written whole or not at all, and never over another's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from data.errors import UserError
from data.files import draft_folder
from data.gallery.lettering import load_font, wrap
from data.keys import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = "results.json"
DRAFT = "results"  # name of the hidden folder


@dataclass
class Report:
    """What a probe gives; JSON, table and page are made of it.

    content : of `results.json`, plain values, paths or NumPy's
    table : rows of the terminal's and the page's table, every cell as shown
    sentences : below the table
    notes : told on stderr, such as the images that were left out
    """

    content: dict[str, Any]
    table: list[dict[str, str]]
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def speaks() -> bool:
    """Whether this process speaks to the user: the first of those on this host."""
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def several() -> bool:
    """Whether torchrun started more than one process for this work, on all hosts together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_several(what: str) -> None:
    """Raise a UserError where several processes would do the same and write the same files."""
    if several():
        raise UserError(
            f"probe {what} runs in one process, and WORLD_SIZE is {os.environ['WORLD_SIZE']}, as "
            "under torchrun; start it without torchrun, which is for probe linear."
        )


def say(text: str) -> None:
    """Tell the user something that is not the result: on stderr, so that `--json` stays JSON."""
    if speaks():
        click.echo(text, err=True)


def unreadable_notes(unreadable: dict[str, str]) -> list[str]:
    """Sentences that name the images that were left out: key -> reason."""
    return [f"left out, cannot be read: {key}: {reason}" for key, reason in unreadable.items()]


def percent(share: float | None, digits: int = 2) -> str:
    """A share in [0, 1] as a table shows it, in percent; empty where there is none."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def next_folder(command: str, parent: Path = Path("probe-output")) -> Path:
    """The first of `probe-output/<command>-001`, `-002`, ... that does not exist."""
    number = 1
    while (folder := parent / f"{command}-{number:03d}").exists():
        number += 1
    return folder


@contextlib.contextmanager
def writing(argument: str, path: Path) -> Iterator[None]:
    """Tell a path that cannot be written to in a sentence that names the argument."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{argument} {path} cannot be written to ({error.strerror}); name another."
        ) from None


class Results:
    """Collects files in a hidden folder in `folder` and moves them there when all are written.

    Use as a context manager; `with Results(...) as results:` leaves nothing behind on an error.

    command : the probe's name, recorded in the JSON.
    folder : where the results go; None takes the next numbered folder below `probe-output`.
    overwrite : replace results that are there; otherwise they are a `UserError`, and so is a folder
        that holds anything else, in any case.
    own : what the command itself may have left there, unfinished.
    """

    def __init__(
        self,
        command: str,
        folder: str | Path | None = None,
        overwrite: bool = False,
        own: tuple[str, ...] = (),
    ):
        self.command = command
        self._afterwards: list[Callable[[], None]] = []
        self.folder = next_folder(command) if folder is None else Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--out {self.folder} is a file; name a folder.")
        if (self.folder / RESULTS).exists() and not overwrite:
            raise UserError(
                f"--out {self.folder} holds results; name another folder or add --overwrite."
            )
        held = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        foreign = {name for name in held - set(own) if not name.startswith(f".{DRAFT}.")}
        if RESULTS not in held and foreign:
            raise UserError(
                f"--out {self.folder} holds files that are no results of probe, such as "
                f"{min(foreign)}; name another folder."
            )

    def __enter__(self) -> Results:
        self._open = draft_folder(self.folder, DRAFT)
        with writing("--out", self.folder):
            self._draft = self._open.__enter__()
        return self

    def path(self, name: str) -> Path:
        """Where to write the file `name` until all are done; it may hold `/`."""
        path = self._draft / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, content: dict) -> str:
        """Add `results.json`: the command, the versions of the software, and `content`.

        Bytes of a file's name that are no UTF-8 are escaped.
        """
        text = dumps({"command": f"probe {self.command}", "software": software(), **content})
        self.path(RESULTS).write_text(text, encoding="utf-8", errors="backslashreplace")
        return text

    def when_written(self, action: Callable[[], None]) -> None:
        """Do this when the results are where they belong, such as to remove what was unfinished."""
        self._afterwards.append(action)

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None and (self._draft / RESULTS).exists():
                self._publish()
                for action in self._afterwards:
                    action()
        finally:
            self._open.__exit__(None, None, None)

    def _publish(self) -> None:
        files = sorted(path for path in self._draft.rglob("*") if path.is_file())
        files.sort(key=lambda path: path.name == RESULTS)  # the JSON last: it vouches for the rest
        for path in files:
            target = self.folder / path.relative_to(self._draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def software() -> dict[str, str]:
    """Versions of what the figures depend on; a package that is not installed is left out."""
    names = ("dilo", "numpy", "torch", "torchvision", "pysodmetrics")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def dumps(content: dict) -> str:
    """JSON, readable, that takes NumPy scalars and arrays and paths."""
    return json.dumps(content, indent=2, default=_plain, ensure_ascii=False) + "\n"


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def in_lines(text: str, inches: float, points: int) -> str:
    """Break a text of a figure into lines of at most `inches`, in letters of `points`.

    Draw it with `parse_math=False`: names may hold a `$`.
    """
    return "\n".join(wrap(printable(text), int(inches * 72), load_font(points)))


def add_legend(axes: Axes, points: int, **options: Any) -> None:
    """Add a legend whose labels fit beside their lines, however long they are."""
    handles, labels = axes.get_legend_handles_labels()
    inches = 0.8 * axes.get_position().width * axes.figure.get_figwidth()
    shown = [in_lines(label, inches, points) for label in labels]
    legend = axes.legend(handles, shown, fontsize=points, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)

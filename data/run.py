"""The folder of a run: refuse, start, resume; checkpoints; how it failed.

    run = Run(out)
    run.check(resume, inputs=[images])                  # refuses a foreign or non-empty folder
    if resume and run.started():
        run.check_same(build(Settings, run.saved()), settings, free={"workers"})
    with stop_on_signals() as stop, failures_told(run, smaller), run.locked():
        state = run.newest(("network", "optimizer"), say) if resume else None
        run.start(settings)                             # the first process only
        metrics = Metrics(run.path("metrics.jsonl"), run.path("tensorboard"), step)
        ...
        run.save(step, {"network": ..., "optimizer": ...})
        if stop: ...                                    # after saving

A checkpoint is `checkpoint-00001200.pt`, the number being the step. It is written under a temporary
name, flushed to the disk and then renamed, so a crash leaves the earlier ones. PyTorch's files are
zip archives with a CRC-32 for every tensor; all are checked before anything is loaded, and loading
goes with `weights_only=True`, so nothing in a file can run code.

Torch is imported only where something is written or read.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from data.errors import UserError, errors_told, is_exhaustion
from data.files import only_writer, write_whole
from data.keys import is_utf8
from data.options import read_toml, to_toml

_CHECKPOINT = re.compile(r"checkpoint-(\d{8,})\.pt")
_DISTRIBUTIONS = ("dilo", "torch", "torchvision", "numpy", "opencv-contrib-python-headless", "h5py")
_TEMPORARY = re.compile(r"\..+\.tmp|.+\.tmp")  # what a killed process leaves of a file


class Run:
    """The files of one run: `config.toml`, its settings, and what else it writes.

    folder : of the run, which its user named by --out.
    checkpoints : folder of its checkpoints, within `folder`; "." is `folder` itself.
    """

    def __init__(self, folder: str | os.PathLike, checkpoints: str = "checkpoints") -> None:
        self.folder = Path(folder)
        self.record, self.checkpoints = self.folder / "config.toml", self.folder / checkpoints
        self.name = f"--out {str(self.folder)!r}"

    def path(self, name: str) -> Path:
        """Return a path within the folder."""
        return self.folder / name

    def started(self) -> bool:
        """Return whether a run has begun here."""
        return self.record.is_file()

    def check(self, resume: bool, inputs: Iterable[str | os.PathLike] = ()) -> None:
        """Refuse a folder within one of the inputs, or that holds files and no run to resume."""
        if not is_utf8(str(self.folder)):
            raise UserError(f"{self.name} is not UTF-8; give another folder.")
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.name} is a file; give a folder.")
        if any(self.folder.resolve().is_relative_to(Path(path).resolve()) for path in inputs):
            raise UserError(f"{self.name} lies in IMAGES, as if it were images; give another.")
        if self.started() and resume:
            return
        held = list(self.folder.iterdir()) if self.folder.is_dir() else []
        if all(_TEMPORARY.fullmatch(path.name) for path in held):
            return
        what = "holds files, and no run to resume" if resume else "is not empty"
        remedy = "go on with --resume, or " if self.started() else ""
        raise UserError(f"{self.name} {what}; {remedy}give another folder.")

    def locked(self, first: bool = True) -> AbstractContextManager[None]:
        """Keep other runs out of the folder; of a run of several processes, the first does so."""
        return only_writer(self.folder, "--out") if first else nullcontext()

    def saved(self) -> dict[str, Any]:
        """Return the settings that the run was begun with, unchecked."""
        return read_toml(self.record)

    def check_same(
        self,
        saved: BaseModel | Mapping[str, Any],
        now: BaseModel | Mapping[str, Any],
        free: Collection[str] = (),
    ) -> None:
        """Refuse to resume with settings that would change the run, but for those in `free`."""
        was, now = flattened(saved), flattened(now)
        for name in now | was:
            if name not in free and was.get(name) != now.get(name):
                raise UserError(
                    f"the run in {str(self.folder)!r} has {name} = {was.get(name)!r}, not "
                    f"{now.get(name)!r}; resume it without that setting, or start another run."
                )

    def start(self, settings: BaseModel | Mapping[str, Any]) -> None:
        """Write the settings, and the versions that run them; nothing where a run has begun."""
        if self.started():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path("versions.json"), json.dumps(versions(), indent=2) + "\n")
        write_whole(self.record, to_toml(settings))  # last: with it a run has begun

    def save(self, step: int, state: dict[str, Any], keep: int = 2) -> Path:
        """Write a checkpoint whole or not at all, then remove all but the `keep` newest up to it.

        state : tensors, numbers, strings, and lists and dicts of them.
        keep : checkpoints to keep, this one among them; at least 2 leave one to fall back to.

        Returns the new file's path.
        """
        path = self.checkpoints / f"checkpoint-{step:08d}.pt"
        write_torch(path, state)
        older = [old for number, old in checkpoints(self.checkpoints) if number < step]
        for old in older[: max(0, len(older) - (keep - 1))]:
            old.unlink(missing_ok=True)
        for forsaken in path.parent.glob(".checkpoint-*.pt.*.tmp"):  # of a process that was killed
            forsaken.unlink(missing_ok=True)
        return path

    def newest(
        self, holding: Collection[str] = (), say: Callable[[str], None] = click.echo
    ) -> Checkpoint | None:
        """Load the newest sound checkpoint; None when there is none at all.

        A damaged one is skipped for the one before it, and said and named in `damaged`. So is a
        file that another program made, without the entries named in `holding`.

        Raises UserError: there are checkpoints, and none is sound.
        """
        damaged: list[tuple[Path, str]] = []
        for step, path in reversed(checkpoints(self.checkpoints)):
            state, reason = _read(path)
            entries = state if isinstance(state, dict) else {}
            lacking = [name for name in holding if name not in entries]
            if lacking and not reason:
                reason = f"no checkpoint of such a run (it holds no {lacking[0]!r})"
            if not reason:
                for other, why in damaged:
                    say(f"{other} is skipped: {why}; resuming from {path.name}.")
                return Checkpoint(path, step, state, damaged)
            damaged.append((path, reason))
        if damaged:
            raise UserError(
                f"none of the {len(damaged)} checkpoints in {self.checkpoints} is sound "
                f"({damaged[0][0].name}: {damaged[0][1]}); start again in a new folder."
            )
        return None

    def last_good(self) -> str:
        """Return in words which checkpoint a run can be resumed from."""
        good = checkpoints(self.checkpoints)
        return (
            f"the last good checkpoint is {good[-1][1]}" if good else "there is no checkpoint yet"
        )


def flattened(settings: BaseModel | Mapping[str, Any], table: str = "") -> dict[str, Any]:
    """Return settings as {name: value}, those of tables as {table.name: value}."""
    if isinstance(settings, BaseModel):
        settings = settings.model_dump(mode="json", exclude_none=True)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= (
            flattened(value, f"{name}.") if isinstance(value, Mapping) else {table + name: value}
        )
    return flat


# ---- checkpoints ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was loaded.

    path, step, state : where it was, its step, and what was saved.
    damaged : newer files that are not sound, each with the reason; newest first.
    """

    path: Path
    step: int
    state: dict[str, Any]
    damaged: list[tuple[Path, str]] = field(default_factory=list)

    def set_aside(self) -> None:
        """Rename the damaged files to `....pt.damaged`."""
        for path, _ in self.damaged:
            os.replace(path, path.with_name(path.name + ".damaged"))


def checkpoints(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """Return (step, path) of a folder's checkpoints, oldest first; [] when there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    matches = ((_CHECKPOINT.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def write_torch(path: Path, state: dict[str, Any]) -> None:
    """Do `torch.save` whole or not at all. OSError: the disk is full, or cannot be written."""
    write_whole(path, torch_bytes(state))  # torch.save hides the reason of a write that fails


def torch_bytes(state: dict[str, Any]) -> memoryview:
    """Return what `torch.save` writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Load a checkpoint onto the CPU after checking it.

    Raises UserError: missing, damaged, or holding what `weights_only=True` refuses.
    """
    state, reason = _read(path)
    if reason:
        raise UserError(f"the checkpoint {os.fspath(path)} cannot be used: {reason}.")
    return state


def _read(path: str | os.PathLike) -> tuple[Any, str]:
    """Return what a checkpoint holds, and ""; or None and why it cannot be used."""
    import torch

    if (reason := damage(path)) is not None:
        return None, reason
    try:
        return torch.load(path, map_location="cpu", weights_only=True), ""
    except Exception as error:  # a damaged pickle makes any
        return None, str(error).strip().partition("\n")[0] or repr(error)


def damage(path: str | os.PathLike) -> str | None:
    """Return what is wrong with a file of `torch.save`; None if every CRC-32 is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # damaged archives make any
        return f"the file is damaged ({error})"
    return None if bad is None else f"the file is damaged (its part {bad} has a wrong checksum)"


# ---- how a run ends ------------------------------------------------------------------------------


@contextmanager
def failures_told(run: Run, smaller: str) -> Iterator[None]:
    """Tell what no check foresees as `errors_told` does, and that the run can be resumed.

    smaller : what to do where the memory is exhausted.
    """
    with errors_told():
        try:
            yield
        except (OSError, RuntimeError, MemoryError) as error:
            resumed = f"{run.last_good()}; mend that and go on with --resume"
            error.add_note(smaller if is_exhaustion(error) else resumed)
            raise


# ---- what made a run -----------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """Return versions of software, the project's commit, and the command."""
    made: dict[str, str | None] = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            made[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            made[name] = None  # run from a checkout that is not installed
    return made | {"git": git_commit(), "command": " ".join(sys.argv)}


def git_commit() -> str | None:
    """Return the project's commit, "+changes" if files differ; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()

"""What a run leaves behind: configuration, versions, metrics, checkpoints, pictures, weights."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.keys import is_utf8
from pretrain.settings import FREE_ON_RESUME, Settings, build_settings, read_toml

_DISTRIBUTIONS = ("dilo", "torch", "torchvision", "numpy", "opencv-contrib-python-headless", "h5py")


class RunFolder:
    """The files of one run below `path`."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.views = self.path / "views.png"
        self.curve = self.path / "curve.png"
        self.backbone = self.path / "backbone.pt"

    def started(self) -> bool:
        """Whether a run has begun here."""
        return self.config.is_file()

    def check(self, resume: bool, images: str | os.PathLike) -> None:
        """Refuse a folder among the images, or that holds something but no run to go on with."""
        if not is_utf8(str(self.path)):
            raise UserError(f"--out {str(self.path)!r} is not UTF-8; give another folder.")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {str(self.path)!r} is a file; give a folder.")
        if self.path.resolve().is_relative_to(Path(images).resolve()):
            raise UserError(
                f"--out {str(self.path)!r} lies in IMAGES, where its pictures would count as "
                "images; give a folder elsewhere."
            )
        held = list(self.path.iterdir()) if self.path.is_dir() else []
        held = [path for path in held if path.name != _temporary(self.config).name]
        if not held or (resume and self.started()):
            return
        if resume:
            raise UserError(
                f"--out {str(self.path)!r} holds files, and no run to resume; give another folder."
            )
        remedy = "go on with --resume, or " if self.started() else ""
        raise UserError(f"--out {str(self.path)!r} is not empty; {remedy}give another folder.")

    def saved_settings(self) -> dict[str, Any]:
        """Return the settings that the run was begun with."""
        return read_toml(self.config)

    def check_same(self, settings: Settings) -> None:
        """Refuse to resume with settings that would change the run."""
        saved = build_settings(self.saved_settings())
        for name in Settings.model_fields:
            was, now = getattr(saved, name), getattr(settings, name)
            if was != now and name not in FREE_ON_RESUME:
                raise UserError(
                    f"the run in {str(self.path)!r} has {name} = {was!r}, not {now!r}; "
                    "resume it without that setting, or start another run."
                )

    def write_start(self, settings: Settings) -> None:
        """Write the resolved configuration, and the versions that run it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, settings.to_toml())
            write_text(self.versions, json.dumps(versions(), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"--out {str(self.path)!r} cannot be written ({str(error.strerror).lower()}); "
                "give another folder."
            ) from None


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = _temporary(path)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    """Return the name of a small file while it is written; a crash may leave it behind."""
    return path.with_name(path.name + ".tmp")


def versions() -> dict[str, str | None]:
    """Return what made a run: versions of software, the project's commit, the command."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None  # run from a checkout that is not installed
    found["git"] = git_commit()
    found["command"] = " ".join(sys.argv)
    return found


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

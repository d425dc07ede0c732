"""Read anybody's file of weights without running anything that is in it."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from data.errors import UserError
from data.run import damage


def read_weights(path: str | os.PathLike, argument: str) -> dict[str, Any]:
    """Read what `torch.save` wrote, old or new, or a .safetensors file, onto the CPU.

    Parameters
    ----------
    path : the file.
    argument : how its user named it, such as "--weights"; errors begin with it.

    Returns
    -------
    The dictionary in the file; a .safetensors file's metadata, and its tensors as "state_dict".

    Raises
    ------
    UserError
        No such file, not of these formats, damaged, Python objects that unpickling would have to
        run, or something else than a dictionary.
    """
    path, name = Path(path), f"{argument} {os.fspath(path)!r}"
    if not path.is_file():
        raise UserError(f"{name}: there is no such file; give a file of weights.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, name)
    try:
        is_zip = zipfile.is_zipfile(path)
        if not is_zip and not _is_pickle(path):
            raise UserError(
                f"{name} is not a file that torch.save wrote, or is cut short; give one that is, "
                "or a .safetensors file."
            )
        if is_zip and (reason := damage(path)) is not None:
            raise UserError(f"{name} cannot be read: {reason}; copy it again.")
        with warnings.catch_warnings():  # about a pickle's protocol, before the file is refused
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{name} holds Python objects, and unpickling those could run code; save it again, "
            "where it was made, by torch.save(model.state_dict(), FILE)."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise _unreadable(name, error) from None
    if not isinstance(content, Mapping):
        raise UserError(
            f"{name} holds a {type(content).__name__}, not a state_dict; save one by "
            "torch.save(model.state_dict(), FILE)."
        )
    return dict(content)


def _read_safetensors(path: Path, name: str) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return {**metadata, "state_dict": safetensors.torch.load_file(path)}
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(name, error) from None


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as torch.save's did before 1.6, and as any pickle does."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _unreadable(name: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
    return UserError(f"{name} cannot be read: {reason}; copy it again.")


def sha256_of(path: str | os.PathLike) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

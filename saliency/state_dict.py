"""Read a file of weights without trusting it."""

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from data.errors import UserError


def read_checkpoint(path: str | os.PathLike) -> object:
    """Load what `torch.save` wrote, onto the CPU, without running code that is hidden in it.

    Raises
    ------
    UserError
        No such file, not a PyTorch file, or a pickle of something else than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--weights {path}: there is no such file; give the path of a checkpoint.")
    try:
        with warnings.catch_warnings():  # of a pickle protocol, before the same file is refused
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or _is_pickle(path):
            raise UserError(
                f"--weights {path} holds Python objects, not only tensors, and unpickling those "
                "could run code; save it again as torch.save(model.state_dict(), FILE)."
            ) from None
        raise UserError(_not_pytorch(path)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError):
        raise UserError(_not_pytorch(path)) from None


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1) == pickle.PROTO


def _not_pytorch(path: Path) -> str:
    return (
        f"--weights {path} is not a PyTorch checkpoint or is damaged; "
        "give a file written by torch.save, or copy it again."
    )


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Load a plain state_dict: names and tensors, nothing else.

    Raises
    ------
    UserError
        As `read_checkpoint`, or the file holds something else than a state_dict.
    """
    content = read_checkpoint(path)
    if not is_state_dict(content):
        raise UserError(
            f"--weights {path} holds {describe(content)}, not a state_dict; "
            "save it as torch.save(model.state_dict(), FILE)."
        )
    return dict(content)


def is_state_dict(content: object) -> bool:
    """Whether `content` maps names to tensors, and is not empty."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def describe(content: object) -> str:
    """What a loaded file holds, in a few words."""
    if isinstance(content, Mapping):
        if not content:
            return "an empty dictionary"
        return f"a dictionary of {_some([str(key) for key in content])}"
    return f"a {type(content).__name__}"


def differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Name the keys in which two state_dicts differ: missing, unexpected, of another shape.

    Returns
    -------
    str
        Empty when they agree, else phrases joined by "; ".
    """
    phrases = []
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    shapes = [
        f"{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    for count, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "misshapen")):
        if count:
            phrases.append(f"{len(count)} {what}: {_some(count)}")
    return "; ".join(phrases)


def _some(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

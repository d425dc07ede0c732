"""Anybody's file of weights: read without running anything in it, unwrapped, and compared.

state, prefix = read_network(path, "--weights", ["conv1.weight"])
if difference := differences(state, network.state_dict()):
    raise UserError(...)
fill(network, state)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.run import damage
from data.unwrap import flat_tensors, network_in

_PLAIN: list[Any] = [  # data that trainers save beside weights: nothing of it runs anything
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdFD"},
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (np._core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
]
_COUNTER = "num_batches_tracked"  # of a batch norm; PyTorch 0.4 wrote none


def read_weights(path: str | os.PathLike, argument: str) -> dict[str, Any]:
    """Read what `torch.save` wrote, old or new, or a .safetensors file, onto the CPU.

    argument : how its user named it, such as "--weights"; errors begin with it.

    Returns the dictionary in the file; a .safetensors file's metadata, and its tensors as
    "state_dict".

    Raises
    ------
    UserError
        No such file, not of these formats, damaged, Python objects that unpickling would have to
        run, or something else than a dictionary.
    """
    path, name = Path(path), f"{argument} {os.fspath(path)!r}"
    if not path.is_file():
        raise UserError(f"{name}: there is no such file; give a file of weights.")
    try:
        kind = _kind(path)
        if kind == "safetensors":
            return _read_safetensors(path)
        if kind == "unknown":
            raise UserError(
                f"{name} is not a file that torch.save wrote, or is cut short; give one that is, "
                "or a .safetensors file."
            )
        if kind == "zip" and (reason := damage(path)) is not None:
            raise UserError(f"{name} cannot be read: {reason}; copy it again.")
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
            warnings.simplefilter("ignore")  # about a pickle's protocol, before it is refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UserError, OSError):
        raise
    except pickle.UnpicklingError:
        raise UserError(
            f"{name} holds Python objects, and unpickling those could run code; save it again, "
            "where it was made, by torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # a damaged pickle makes any
        raise _unreadable(name, error) from None
    if not isinstance(content, Mapping):
        raise _no_state_dict(name, content)
    return dict(content)


def split_choice(path: str | os.PathLike) -> tuple[Path, str]:
    """Return the path and the network's name of FILE#NAME; "" where none is chosen."""
    file, mark, choice = os.fspath(path).rpartition("#")
    if mark and not os.path.exists(path) and os.path.exists(file):
        return Path(file), choice
    return Path(path), ""


def _kind(path: Path) -> str:
    """What a file is by its content, whatever its ending: zip, pickle, safetensors or unknown."""
    if path.suffix == ".safetensors":
        return "safetensors"
    if zipfile.is_zipfile(path):
        return "zip"
    with path.open("rb") as file:
        begin = file.read(9)
    if begin[:1] == pickle.PROTO:  # torch.save before 1.6, and any pickle
        return "pickle"
    header = struct.unpack("<Q", begin[:8])[0] if len(begin) == 9 else 0
    return "safetensors" if begin[8:] == b"{" and header < path.stat().st_size else "unknown"


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return {**metadata, "state_dict": safetensors.torch.load_file(path)}


def _unreadable(name: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
    return UserError(f"{name} cannot be read: {reason}; copy it again.")


def _no_state_dict(name: str, content: object) -> UserError:
    holds = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        holds = f"a dictionary of {_some(map(str, content))}" if content else "an empty dictionary"
    return UserError(
        f"{name} holds {holds}, not a state_dict; save one by torch.save(model.state_dict(), FILE)."
    )


def read_network(
    path: str | os.PathLike, argument: str, anchors: Iterable[str]
) -> tuple[dict[str, Tensor], str]:
    """Read one network's tensors from FILE or FILE#NAME; see `read_weights` and `network_in`."""
    file, choice = split_choice(path)
    name = f"{argument} {os.fspath(file)!r}"
    return network_in(state_dict_of(read_weights(file, argument), name), anchors, choice, name)


def state_dict_of(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return a file's tensors by flat names (`data.unwrap`).

    name : of the file, for the UserError where there are none.
    """
    state = flat_tensors(content)
    if not state:
        raise _no_state_dict(name, content)
    return state


def differences(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], ignored: str | None = None
) -> str:
    """Return the names in which two state_dicts differ: missing, unexpected, of another shape.

    ignored : the beginning of names in `state` that count for nothing, such as "fc.".

    Returns phrases joined by "; ", or "" where they agree. A state_dict that counts no batches of
    batch norms is an old one, and agrees. What lies in modules that the network does not have, such
    as a projection head or a queue, is no difference.
    """
    old = not any(name.endswith(_COUNTER) for name in state)
    missing = [n for n in wanted if n not in state and not (old and n.endswith(_COUNTER))]
    unexpected = [n for n in state if n not in wanted and not (ignored and n.startswith(ignored))]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    modules = {name.partition(".")[0] for name in wanted}
    if not missing and not shapes:
        unexpected = [name for name in unexpected if name.partition(".")[0] in modules]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": shapes}
    return "; ".join(f"{len(n)} {kind}: {_some(n)}" for kind, n in kinds.items() if n)


def _some(names: Iterable[str], limit: int = 4) -> str:
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put tensors without `differences` into a network, which may be one of the device "meta".

    They get the network's dtypes; what else is in `state` is left out.
    """
    wanted = network.state_dict()
    values = {
        name: state[name].to(value.dtype) if name in state else torch.zeros((), dtype=value.dtype)
        for name, value in wanted.items()
    }
    network.load_state_dict(values, assign=any(value.is_meta for value in wanted.values()))


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network of shapes without memory, on the device "meta"; with it, where it must be."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # torchvision's RegNet computes with its weights while it is built
        return build()


def last_linear(network: nn.Module) -> str | None:
    """Return the name of the last linear layer: the classifier, in all of torchvision's."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def sha256_of(path: str | os.PathLike) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

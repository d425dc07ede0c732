"""Anybody's file of weights: read without running anything in it, unwrapped, and compared.

state = read_state_dict(path, "--weights")
state, prefix = without_prefix(state, ["conv1.weight"])
if difference := differences(state, network.state_dict()):
    raise UserError(...)
fill(network, state)
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.run import damage

WRAPPERS = ("state_dict", "model_state_dict", "model", "method", "network", "student", "backbone")
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
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise _unreadable(name, error) from None
    if not isinstance(content, Mapping):
        raise _no_state_dict(name, content)
    return dict(content)


def _read_safetensors(path: Path, name: str) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return {**metadata, "state_dict": safetensors.torch.load_file(path)}
    except safetensors.SafetensorError as error:
        raise _unreadable(name, error) from None


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as torch.save's did before 1.6, and as any pickle does."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


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


def read_state_dict(path: str | os.PathLike, argument: str) -> dict[str, Tensor]:
    """Read a file's tensors by name. UserError as `read_weights` and `state_dict_of`."""
    return state_dict_of(read_weights(path, argument), f"{argument} {os.fspath(path)!r}")


def state_dict_of(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return the tensors by name of a file's dictionary, directly or below `WRAPPERS`.

    name : of the file, for the UserError where there are none.
    """
    state = {str(k): v for k, v in _unwrapped(content).items() if isinstance(v, Tensor)}
    if not state:
        raise _no_state_dict(name, content)
    return state


def _unwrapped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    for word in WRAPPERS:
        if isinstance(content.get(word), Mapping):
            inner = _unwrapped(content[word])
            if any(isinstance(value, Tensor) for value in inner.values()):
                return inner
    return content


def without_prefix(
    state: Mapping[str, Tensor], anchors: Iterable[str]
) -> tuple[dict[str, Tensor], str]:
    """Return one network's tensors by its own names, and the prefix that stood before them.

    anchors : names of which the network has one.

    Where several networks are in a file, the one that was trained by gradients is taken: MoCo's
    `encoder_q`, not its `encoder_k`; `student` or `base_encoder`, not `teacher` or a momentum one.
    """
    prefixes = {
        key[: -len(anchor)]
        for anchor in anchors
        for key in state
        if key == anchor or key.endswith("." + anchor)
    }
    # `layer1.0.conv1.weight` ends like the first name of a network, too
    prefixes = {p for p in prefixes if not any(o != p and p.startswith(o) for o in prefixes)}
    prefix = min(prefixes, key=_prefix_rank, default="")
    own = {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}
    return own, prefix


def _prefix_rank(prefix: str) -> tuple[bool, int, str]:
    slow = any(word in prefix for word in ("encoder_k", "momentum", "teacher", "ema", "target"))
    return slow, prefix.count("."), prefix


def differences(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], ignored: str | None = None
) -> str:
    """Return the names in which two state_dicts differ: missing, unexpected, of another shape.

    ignored : the beginning of names in `state` that count for nothing, such as "fc.".

    Returns phrases joined by "; ", or "" where they agree. A state_dict that counts no batches of
    batch norms is an old one, and agrees.
    """
    old = not any(name.endswith(_COUNTER) for name in state)
    missing = [n for n in wanted if n not in state and not (old and n.endswith(_COUNTER))]
    unexpected = [n for n in state if n not in wanted and not (ignored and n.startswith(ignored))]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
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


def last_linear(network: nn.Module) -> str | None:
    """Return the name of the last linear layer: the classifier, in all of torchvision's."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def sha256_of(path: str | os.PathLike) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

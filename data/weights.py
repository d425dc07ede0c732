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
import re
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

from data.errors import UserError, damage_told
from data.run import damage

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
    with damage_told(path, "copy it again", name=name):
        kind = _kind(path)
        if kind == "safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            return {**metadata, "state_dict": safetensors.torch.load_file(path)}
        if kind == "unknown":
            raise ValueError("it is not a file that torch.save wrote, or is cut short")
        if kind == "zip" and (reason := damage(path)) is not None:
            raise ValueError(reason)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
                warnings.simplefilter("ignore")  # about a pickle's protocol, before it is refused
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(
                f"{name} holds Python objects, and unpickling those could run code; save it "
                "again, where it was made, by torch.save(model.state_dict(), FILE)."
            ) from None
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
    """Return a file's tensors by flat names (`data.weights`).

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


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


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


# ---- a network within a file, however deep it is wrapped -----------------------------------------
#
# Trainers nest: {"state_dict": {"module.encoder_q.conv1.weight": ...}}. The tensors of all mappings
# are laid flat, with "/" between the names of mappings and their keys, which have dots inside:
# "state_dict/module.encoder_q.conv1.weight". A network is then wherever one of its own names ends a
# flat one, and what stands before it is its prefix.


_DEEPEST = 8  # mappings within mappings
_NUMBERED = {  # nn.Sequential(*list(resnet.children())[:-1]), as Lightly's tutorials save it
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}
_SLOW = ("encoder_k", "momentum", "teacher", "ema", "target")  # follow another network's weights
_OF_OPTIMIZERS = re.compile(r"(^|/)(optimizer|optim|lr_sched|scaler)[^/]*/")


def flat_tensors(content: Mapping[Any, Any], path: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return a checkpoint's tensors, and arrays of numbers as tensors, by their flat names."""
    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        name = f"{path}{key}"
        if isinstance(value, Tensor):
            flat[name] = value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            flat[name] = torch.from_numpy(np.array(value))
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            flat |= flat_tensors(value, name + "/", depth + 1)
    return flat


def network_in(
    tensors: Mapping[str, Tensor], anchors: Iterable[str], choice: str = "", name: str = "FILE"
) -> tuple[dict[str, Tensor], str]:
    """Return one network's tensors by its own names, and the prefix before them in the file.

    tensors : by flat names.
    anchors : names of which the network has one.
    choice : a word of the prefix, such as "teacher", where there are several networks. Without it
        the one is taken that was trained by gradients: MoCo's `encoder_q`, not its `encoder_k`;
        `student` or `base_encoder`, not `teacher` or a momentum one.
    name : of the file, for errors.

    Where no anchor is there, the tensors of the largest mapping are returned, to be compared.

    Raises UserError: there are several networks and no saying which, or none that was chosen.
    """
    tensors = _of_networks(tensors)
    prefixes = networks_in(tensors, anchors)
    if choice:
        known = prefixes
        prefixes = [p for p in known if p == choice or choice in re.split(r"[./]", p)]
        if len(prefixes) != 1:
            raise UserError(
                f"{name} has {len(prefixes) or 'no'} networks of the name '{choice}', but "
                f"{_listed(known)}; name one of them after '#'."
            )
    fast = [p for p in prefixes if not _is_slow(p)]
    if len(fast) > 1:
        fast = [p for p in fast if p.count("/") == min(q.count("/") for q in fast)]
    if len(fast) > 1 and not _are_equal(tensors, fast):
        raise UserError(
            f"{name} holds {len(fast)} networks, {_listed(fast)}; choose one by its name, "
            f"FILE#{_words(fast[0])}."
        )
    prefix = (fast or prefixes or [_largest(tensors)])[0]
    own = {k.removeprefix(prefix): value for k, value in tensors.items() if k.startswith(prefix)}
    return own, prefix


def networks_in(tensors: Mapping[str, Tensor], anchors: Iterable[str]) -> list[str]:
    """Return the prefixes of the networks among flat tensors, those trained by gradients first."""
    prefixes = {
        key[: -len(anchor)]
        for anchor in anchors
        for key in tensors
        if key == anchor or key.endswith(("." + anchor, "/" + anchor))
    }
    # `layer1.0.conv1.weight` ends like the first name of a network, too
    outermost = {p for p in prefixes if not any(o != p and p.startswith(o) for o in prefixes)}
    return sorted(outermost, key=lambda p: (_is_slow(p), p.count("/") + p.count("."), p))


def other_networks(tensors: Mapping[str, Tensor], anchors: Iterable[str], prefix: str) -> list[str]:
    """Return words for the networks beside the one that was taken, as FILE#WORD chooses them."""
    return [_words(p) for p in networks_in(_of_networks(tensors), anchors) if p != prefix]


def _is_slow(prefix: str) -> bool:
    return any(word in prefix for word in _SLOW)


def _are_equal(tensors: Mapping[str, Tensor], prefixes: list[str]) -> bool:
    """Whether networks are one, saved twice."""
    first, *others = (
        {k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in prefixes
    )
    return all(
        other.keys() == first.keys() and all(torch.equal(other[k], first[k]) for k in first)
        for other in others
    )


def _largest(tensors: Mapping[str, Tensor]) -> str:
    """The mapping that holds most tensors."""
    paths = [key.rpartition("/")[0] for key in tensors]
    path = max(dict.fromkeys(paths), key=paths.count, default="")
    return path and path + "/"


def _of_networks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out optimizers' tensors, and give the children of a numbered ResNet their names."""
    tensors = {k: value for k, value in tensors.items() if not _OF_OPTIMIZERS.search(k)}
    ending = "4.0.conv1.weight"
    for prefix in [key[: -len(ending)] for key in tensors if key.endswith(ending)]:
        first = tensors.get(prefix + "0.weight")
        if first is not None and first.ndim == 4:
            tensors = {_named(key, prefix): value for key, value in tensors.items()}
    return tensors


def _named(key: str, prefix: str) -> str:
    number, dot, rest = key.removeprefix(prefix).partition(".")
    if not key.startswith(prefix) or number not in _NUMBERED:
        return key
    return f"{prefix}{_NUMBERED[number]}{dot}{rest}"


def _words(prefix: str) -> str:
    return prefix.strip("./") or "."


def _listed(prefixes: list[str]) -> str:
    return ", ".join(f"'{_words(p)}'" for p in prefixes) or "none"

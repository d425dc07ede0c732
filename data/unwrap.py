"""Find a network among the tensors of anybody's checkpoint, however deep it is wrapped.

Trainers nest: {"state_dict": {"module.encoder_q.conv1.weight": ...}}. The tensors of all mappings
are laid flat, with "/" between the names of mappings and their keys, which have dots inside:
"state_dict/module.encoder_q.conv1.weight". A network is then wherever one of its own names ends a
flat one, and what stands before it is its prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError

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

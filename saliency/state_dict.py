"""What a file of weights holds: a state_dict, or what differs from the one that is wanted."""

import os
from collections.abc import Mapping

from torch import Tensor

from data.errors import UserError
from data.weights import read_weights


def read_state_dict(path: str | os.PathLike, argument: str = "--weights") -> dict[str, Tensor]:
    """Load a state_dict: names and tensors, nothing else. A .safetensors file will do.

    Raises
    ------
    UserError
        As `data.weights.read_weights`, or the file holds something else than a state_dict.
    """
    content = read_weights(path, argument)
    if os.fspath(path).endswith(".safetensors"):
        content = content["state_dict"]
    if not is_state_dict(content):
        raise UserError(
            f"{argument} {os.fspath(path)!r} holds {describe(content)}, not a state_dict; "
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

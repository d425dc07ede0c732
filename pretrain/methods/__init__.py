"""The pretraining methods: each is one file and one line here.

A method is a class with the protocol of `pretrain.contract.Method`. Nothing else names it: the
command's choices and help, `--settings`, the checks and the trainer go by this table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from pretrain.contract import Method

METHODS: dict[str, str] = {  # name: module and class; a module is imported when it is used
    "instdisc": "pretrain.methods.instdisc:InstDisc",
    "moco": "pretrain.methods.moco:MoCo",
    "cvsa": "pretrain.methods.cvsa:CVSA",
    "codo": "pretrain.methods.codo:CoDo",
    "rotation": "pretrain.methods.rotation:Rotation",
    "colourisation": "pretrain.methods.colourisation:Colourisation",
}


def load_method(name: str) -> type[Method]:
    """Return a method's class; UserError for a name that is not registered."""
    if name not in METHODS:
        raise UserError(f"the setting method is {name!r}; choose one of {', '.join(METHODS)}.")
    module, _, kind = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), kind)

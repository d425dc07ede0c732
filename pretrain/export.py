"""The backbone alone, in torchvision's names."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from data.errors import UserError
from data.run import write_torch
from data.weights import read_weights
from pretrain.parts.backbones import CLASSIFIER
from pretrain.settings import Settings

FORMAT = "dilo-backbone"


def export_backbone(backbone: nn.Module, settings: Settings, path: Path) -> None:
    """Write {"format", "arch", "state_dict", "config"}; it loads with `weights_only=True`.

    The state_dict has float32 tensors on the CPU and torchvision's names, without the classifier
    (`pretrain.parts.backbones.CLASSIFIER`); `config` is the run's settings as JSON.
    """
    tensors = {name: t.detach().cpu().clone() for name, t in backbone.state_dict().items()}
    contents = {
        "format": FORMAT,
        "arch": settings.arch,
        "state_dict": tensors,
        "config": settings.model_dump_json(exclude_none=True),
    }
    write_torch(path, contents)


def load_backbone(backbone: nn.Module, arch: str, path: str | Path) -> None:
    """Load weights into a backbone: a backbone.pt, or a state_dict of torchvision's model.

    The state_dict may be an entry of that name, as trainers write it, and its names may begin with
    DataParallel's "module.".

    Raises
    ------
    UserError
        No such file, damaged, another architecture, names that do not fit.
    """
    contents = read_weights(path, "init")
    if contents.get("format") == FORMAT and contents["arch"] != arch:
        raise UserError(
            f"init {str(path)!r} holds a {contents['arch']}, and arch is {arch!r}; "
            f"set arch={contents['arch']}."
        )
    contents = contents.get("state_dict", contents)
    classifier = CLASSIFIER[arch] + "."
    tensors = {str(name).removeprefix("module."): value for name, value in contents.items()}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(classifier)}
    try:
        backbone.load_state_dict(tensors, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())[:160]
        raise UserError(f"init {str(path)!r} does not fit {arch}: {first}.") from None

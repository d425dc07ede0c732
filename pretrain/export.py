"""The backbone alone, in torchvision's names."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from data.checkpoint import damage, load, write_atomically
from data.errors import UserError
from pretrain.backbones import CLASSIFIER
from pretrain.config import Settings

FORMAT = "dilo-backbone"


def export_backbone(backbone: nn.Module, settings: Settings, path: Path) -> None:
    """Write {"format", "arch", "state_dict", "config"}; it loads with `weights_only=True`.

    The state_dict has float32 tensors on the CPU and torchvision's names, without the classifier
    (`pretrain.backbones.CLASSIFIER`); `config` is the run's settings as JSON.
    """
    tensors = {name: t.detach().cpu().clone() for name, t in backbone.state_dict().items()}
    contents = {
        "format": FORMAT,
        "arch": settings.arch,
        "state_dict": tensors,
        "config": settings.model_dump_json(exclude_none=True),
    }
    write_atomically(path, contents)


def load_backbone(backbone: nn.Module, arch: str, path: str | Path) -> None:
    """Load weights into a backbone: a backbone.pt, or a state_dict of torchvision's model.

    Raises
    ------
    UserError
        No such file, damaged, another architecture, names that do not fit.
    """
    if not Path(path).is_file():
        raise UserError(f"init {str(path)!r} is not a file; give a backbone.pt or a state_dict.")
    if (reason := damage(path)) is not None:
        raise UserError(f"init {str(path)!r} cannot be used: {reason}; give a file of torch.save.")
    contents = load(path)
    if not isinstance(contents, dict):
        raise UserError(f"init {str(path)!r} does not hold a state_dict; give one of {arch}.")
    if contents.get("format") == FORMAT:
        if contents["arch"] != arch:
            raise UserError(
                f"init {str(path)!r} holds a {contents['arch']}, and arch is {arch!r}; "
                f"set arch={contents['arch']}."
            )
        contents = contents["state_dict"]
    classifier = CLASSIFIER[arch] + "."
    tensors = {k: v for k, v in contents.items() if not k.startswith(classifier)}
    try:
        backbone.load_state_dict(tensors, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())[:160]
        raise UserError(f"init {str(path)!r} does not fit {arch}: {first}.") from None

"""The backbone alone, in torchvision's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from data.errors import UserError
from data.run import write_torch
from data.weights import differences, fill, read_network
from pretrain.parts.backbones import CLASSIFIER
from pretrain.settings import Settings

FORMAT = "dilo-backbone"


def export_backbone(
    backbone: nn.Module,
    settings: Settings,
    path: Path,
    detector: Mapping[str, Tensor] | None = None,
) -> None:
    """Write {"format", "arch", "state_dict", "config"}; it loads with `weights_only=True`.

    The state_dict has float32 tensors on the CPU and torchvision's names, without the classifier
    (`pretrain.parts.backbones.CLASSIFIER`); `config` is the run's settings as JSON.

    detector : what was trained of a detector besides its body (`pretrain.parts.pyramid.state`);
        where there is any, it is the entry "detector".
    """

    def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    contents = {
        "format": FORMAT,
        "arch": settings.arch,
        "state_dict": on_cpu(backbone.state_dict()),
        "config": settings.model_dump_json(exclude_none=True),
    }
    if detector:
        contents["detector"] = on_cpu(detector)
    write_torch(path, contents)


def load_backbone(backbone: nn.Module, arch: str, path: str | Path) -> None:
    """Load weights into a backbone: a backbone.pt, or a state_dict of torchvision's model.

    The state_dict may be an entry of a trainer's checkpoint, and its names may have a prefix.

    UserError: No such file, damaged, another architecture, names that do not fit.
    """
    wanted = backbone.state_dict()
    state, _ = read_network(path, "init", [next(iter(wanted))])
    if difference := differences(state, wanted, ignored=CLASSIFIER[arch] + "."):
        raise UserError(
            f"init {str(path)!r} does not fit {arch}: {difference}; set another arch or init."
        )
    fill(backbone, state)

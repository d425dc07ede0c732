"""`probe export`: a backbone's weights under the names of other software."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from data.errors import UserError
from data.files import write_whole
from data.options import Record, one_of, setting
from evaluate.results import say

if TYPE_CHECKING:
    from torch import Tensor

    from evaluate.checkpoints import Checkpoint

SUFFIXES = (".pt", ".pth", ".safetensors")
SOFTWARE = {"torchvision": SUFFIXES, "detectron2": (".pkl",), "timm": SUFFIXES}  # and endings


class Options(Record):
    """Write a backbone's weights for other software.

    OUT ends in .pt, .pth or .safetensors and holds a plain state_dict with torchvision's names, as
    float32, without the classifier: model.load_state_dict(weights, strict=False) then misses the
    classifier's two tensors alone.

    --for torchvision names a ResNet as torchvision's detectors have it (backbone.body...), --for
    detectron2 writes a .pkl that detectron2 loads as MODEL.WEIGHTS. Pyramid and box head go along
    where the pretraining trained them (codo). --for timm writes a ResNet for timm, and says how
    create_model loads it.
    """

    checkpoint: str = setting(..., "the network", argument=True)
    out: Path = setting(..., "the file", argument=True)
    arch: str | None = setting(
        None, "torchvision's name of the network, where the weights do not tell"
    )
    software: Annotated[str, one_of(SOFTWARE)] | None = setting(
        None,
        "for the detectors of torchvision or detectron2, or for timm's networks",
        names=("--for",),
    )
    overwrite: bool = setting(False, "replace OUT where it exists")


def run(options: Options) -> None:
    """Write the file."""
    from evaluate.checkpoints import load_checkpoint
    from evaluate.networks import classifier

    out, endings = options.out, SOFTWARE.get(options.software, SUFFIXES)
    if out.suffix not in endings:
        raise UserError(f"OUT {out} must end in {', '.join(endings)}.")
    loaded = load_checkpoint(options.checkpoint, options.arch)
    say(loaded.source.describe())
    data, count = _content(options, loaded)
    if out.exists() and not options.overwrite and out.read_bytes() != data:  # what is there stays
        raise UserError(f"OUT {out} exists; name another file or add --overwrite.")
    write_whole(out, data)
    name = loaded.source.arch
    click.echo(f"{out}: {count} tensors of {name}, all but {classifier(name)}")
    if options.software == "timm":
        path = str(out)
        click.echo(f"timm.create_model({name!r}, num_classes=0, checkpoint_path={path!r})")


def _content(options: Options, loaded: Checkpoint) -> tuple[bytes, int]:
    """Return the file's bytes, and how many tensors they hold."""
    import safetensors.torch
    from torchvision.models.resnet import ResNet

    from data.run import torch_bytes
    from evaluate.detection.names import for_detectron2, for_torchvision
    from evaluate.networks import DILO_ONLY

    state, detector = _plain(loaded.model.state_dict()), _plain(loaded.detector)
    own = options.software == "timm" and loaded.source.arch in DILO_ONLY
    if options.software is not None and (own or not isinstance(loaded.model, ResNet)):
        raise UserError(
            f"--for {options.software}: CHECKPOINT {options.checkpoint} is {loaded.source.arch}; "
            "what this writes is built on ResNets of torchvision."
        )
    if options.software == "detectron2":
        return for_detectron2(state, detector), len(state) + len(detector)
    if options.software == "torchvision":
        state = for_torchvision(state, detector)
    if options.out.suffix == ".safetensors":
        # a single entry: the order of several is another each time
        return safetensors.torch.save(state, {"format": "pt"}), len(state)
    return bytes(torch_bytes(state)), len(state)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in tensors.items()
    }

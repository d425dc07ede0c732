"""`probe export`: a backbone's weights under torchvision's names."""

from __future__ import annotations

import json
from pathlib import Path

import click

from data.errors import UserError
from data.files import write_whole
from data.options import Record, setting
from evaluate.results import say

SUFFIXES = (".pt", ".pth", ".safetensors")


class Options(Record):
    """Write a backbone's weights for other software.

    OUT ends in .pt, .pth or .safetensors and holds a plain state_dict with torchvision's names, as
    float32, without the classifier: model.load_state_dict(weights, strict=False) then misses the
    classifier's two tensors alone.
    """

    checkpoint: str = setting(..., "the network", argument=True)
    out: Path = setting(..., "the file", argument=True)
    arch: str | None = setting(
        None, "torchvision's name of the network, where the weights do not tell"
    )
    overwrite: bool = setting(False, "replace OUT where it exists")


def run(options: Options) -> None:
    """Write the file."""
    import safetensors.torch

    from data.run import torch_bytes
    from evaluate.checkpoints import load_checkpoint
    from evaluate.networks import classifier

    out = options.out
    if out.suffix not in SUFFIXES:
        raise UserError(f"OUT {out} must end in {', '.join(SUFFIXES)}.")
    loaded = load_checkpoint(options.checkpoint, options.arch)
    say(loaded.source.describe())
    state = {
        key: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in loaded.model.state_dict().items()
    }
    if out.suffix == ".safetensors":
        # a single entry: the order of several is another each time
        data = safetensors.torch.save(state, {"format": "pt"})
    else:
        data = bytes(torch_bytes(state))
    same = out.exists() and _parts(out.read_bytes()) == _parts(data)
    if out.exists() and not options.overwrite and not same:  # what is there stays
        raise UserError(f"OUT {out} exists; name another file or add --overwrite.")
    write_whole(out, data)
    name = loaded.source.arch
    click.echo(f"{out}: {len(state)} tensors of {name}, all but {classifier(name)}")


def _parts(data: bytes) -> tuple[object, bytes]:
    """Header and tensors of a .safetensors file, whose metadata have no order; or all the bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        return json.loads(data[8:end]), data[end:]
    except ValueError:
        return None, data

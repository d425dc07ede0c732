"""`probe export`: a backbone's weights under torchvision's names."""

from __future__ import annotations

from pathlib import Path

import click
import safetensors.torch
import torch

from data.errors import UserError
from evaluate.checkpoints import load_checkpoint
from evaluate.networks import classifier
from evaluate.options import arch_option, say
from evaluate.results import write_whole

SUFFIXES = (".pt", ".pth", ".safetensors")


@click.command("export")
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@arch_option
@click.option("--overwrite", is_flag=True, help="Replace OUT where it exists.")
def export(checkpoint, out, arch, overwrite):
    """Write a backbone's weights for other software.

    OUT ends in .pt, .pth or .safetensors and holds a plain state_dict with torchvision's names, as
    float32, without the classifier: model.load_state_dict(weights, strict=False) then misses the
    classifier's two tensors alone.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"OUT {out} must end in {', '.join(SUFFIXES)}.")
    if out.exists() and not overwrite:
        raise UserError(f"OUT {out} exists; name another file or add --overwrite.")
    if not out.parent.is_dir():
        raise UserError(f"OUT {out}: there is no folder {out.parent}; make it first.")
    loaded = load_checkpoint(checkpoint, arch)
    say(loaded.source.describe())
    state = {
        key: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in loaded.model.state_dict().items()
    }
    metadata = {"arch": loaded.source.arch, "format": "pt"}

    def write(path: Path) -> None:
        if out.suffix == ".safetensors":
            safetensors.torch.save_file(state, path, metadata)
        else:
            torch.save(state, path)

    write_whole(out, write, overwrite)
    name = loaded.source.arch
    click.echo(f"{out}: {len(state)} tensors of {name}, all but {classifier(name)}")

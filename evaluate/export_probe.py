"""`probe export`: a backbone's weights under torchvision's names."""

from __future__ import annotations

from pathlib import Path

import click
import safetensors.torch
import torch

from data.errors import UserError
from evaluate.checkpoints import load_checkpoint
from evaluate.networks import classifier
from evaluate.options import say
from evaluate.results import write_whole

SUFFIXES = (".pt", ".pth", ".safetensors")


def run(checkpoint, out, arch, overwrite):
    """Do `probe export`; the arguments are its options."""
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
            path.write_bytes(safetensors.torch.save(state, metadata))
        else:
            with path.open("wb") as file:  # given a path, torch reports a failure as a RuntimeError
                torch.save(state, file)

    write_whole(out, write, overwrite)
    name = loaded.source.arch
    click.echo(f"{out}: {len(state)} tensors of {name}, all but {classifier(name)}")

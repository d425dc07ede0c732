"""`python -m saliency.basnet.train`: train a BASNet, with ground truth or self-taught."""

import sys
from pathlib import Path
from typing import Any

import click
import torch

from data.device import pick_device, pick_precision
from data.errors import UserError
from data.images.listing import key_path, list_images
from data.keys import Keys
from data.options import Command, build, option_name, options
from data.run import Run
from saliency.basnet.dataset import Pair, list_pairs
from saliency.basnet.network import BASNet, load_encoder
from saliency.basnet.selftaught import SelfTaught
from saliency.basnet.settings import Settings, Surroundings
from saliency.basnet.trainer import Trainer


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of this run.")
@click.option("--resume", is_flag=True, help="Go on where --out stopped, or start when it is new.")
@options(Surroundings, into="around")
@options(Settings, layered=True)
def main(out: Path, resume: bool, around: Surroundings, settings: dict[str, Any]) -> None:
    """Train BASNet on the photographs in IMAGES and their ground truth, or without one.

    IMAGES is DUTS-TR as it is unpacked (DUTS-TR-Image and DUTS-TR-Mask in it), or any folder of
    photographs with --masks. All defaults are the published training's. Ctrl-C or SIGTERM saves;
    the same command with --resume goes on, with the same result as if nothing had happened.

    With --teachers it learns from masks by methods per pixel, without ground truth, from scratch.
    IMAGES is then any folder of photographs, and --masks only serves to report --hold-out's scores.

    \b
    Examples:
      python -m saliency.basnet.train DUTS-TR --out run --from-scratch --val DUTS-TE
      python -m saliency.basnet.train photos --masks masks --hold-out 200 --out run \\
          --from-scratch --width 0.125 --resize 128 --crop 112
      python -m saliency.basnet.train photos --teachers rbd,mc,gs --out run \\
          --width 0.125 --resize 112 --crop 96 --epochs 24 --schedule cosine
    """
    device = pick_device(around.device)
    precision = pick_precision(around.precision, device)
    run = Run(out)
    run.check(resume, inputs=[around.images])
    layers = [run.saved(), settings] if run.started() else [settings]
    now = build(Settings, *layers, label=option_name)
    if run.started():
        run.check_same(run.saved(), now, now.free_on_resume)
    keys = list_images(around.images) if now.teachers else None
    pairs, validation = _split(around, now, keys)
    taught = None
    if keys is not None:
        keys = keys[: len(pairs)]
        arithmetic = {"device": str(device), "precision": around.precision}
        taught = SelfTaught(out, now, around.images, keys, arithmetic, around.workers)

    torch.manual_seed(now.seed)
    network = BASNet(now.width)
    trainer = Trainer(
        network,
        pairs,
        validation,
        run,
        now,
        device,
        precision,
        around.workers,
        around.compiled,
        taught,
    )
    resumed = resume and trainer.resume()
    if not resumed and not now.scratch:
        load_encoder(network, around.encoder_weights)
    click.echo(
        f"{len(pairs)} photographs to train on, {len(validation)} to validate; {out} "
        + (f"goes on after step {trainer.step}" if resumed else "starts")
        + f" on {device}"
    )
    stop = trainer.train()
    if not trainer.done:
        click.echo(f"stopped and saved after step {trainer.step}; --resume goes on from there")
        sys.exit(stop.exit_code)
    if taught:
        how = "its labels have settled" if trainer.settled else "all rounds are done"
        click.echo(f"{how}: {run.path('best.pth')}")
    elif validation:
        click.echo(f"best max F {trainer.best:.4f}: {run.path('best.pth')}")


def _split(around: Surroundings, now: Settings, keys: Keys | None) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on and to validate; `keys` of IMAGES, where it needs no ground truth."""
    hold_out = now.hold_out
    if keys is not None and around.masks is None:
        if hold_out:
            raise UserError(f"--hold-out {hold_out} needs --masks, their ground truth.")
        pairs = [Pair(key, key_path(around.images, key), "") for key in keys]
    else:
        pairs = list_pairs(around.images, around.masks)
    if around.val is not None:
        if hold_out:
            raise UserError(f"--hold-out {hold_out} and --val {around.val}: give one of the two.")
        return pairs, list_pairs(around.val, around.val_masks, "--val")
    if around.val_masks is not None:
        raise UserError(f"--val-masks {around.val_masks} needs --val, the photographs.")
    if hold_out >= len(pairs):
        raise UserError(f"--hold-out {hold_out} leaves none of {len(pairs)} to train on.")
    return pairs[: len(pairs) - hold_out], pairs[len(pairs) - hold_out :]


if __name__ == "__main__":
    main()

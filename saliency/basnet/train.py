"""`python -m saliency.basnet.train`: train a BASNet on photographs with ground truth."""

import hashlib
from pathlib import Path

import click
import torch

from data.device import pick_device, pick_precision
from data.errors import ToldCommand, UserError
from data.run import checkpoints
from saliency.basnet.dataset import Pair, list_pairs
from saliency.basnet.network import BASNet
from saliency.basnet.settings import Settings
from saliency.basnet.trainer import Trainer
from saliency.basnet.weights import load_encoder

DEFAULTS = Settings()
DEEPEST = 32  # a crop of up to so many pixels is a single one at the deepest level


@click.command(cls=ToldCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of this run.")
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    help="Ground truth with the photographs' names; not needed for DUTS's folders.",
)
@click.option("--val", type=click.Path(path_type=Path), help="Validation photographs, as IMAGES.")
@click.option("--val-masks", type=click.Path(path_type=Path), help="Their ground truth.")
@click.option(
    "--hold-out",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Keep the last so many photographs, by name, for validation.",
)
@click.option("--from-scratch", is_flag=True, help="Start the encoder at random.")
@click.option(
    "--encoder-weights",
    type=click.Path(path_type=Path),
    help="A ResNet-34 with torchvision's names, in place of the download of ImageNet's.",
)
@click.option("--resume", is_flag=True, help="Go on where --out stopped, or start when it is new.")
@click.option(
    "--width",
    type=click.FloatRange(1 / 64, 4),
    default=DEFAULTS.width,
    show_default=True,
    help="Channels relative to the published network; 0.125 trains on a CPU.",
)
@click.option(
    "--resize",
    type=click.IntRange(min=32),
    default=DEFAULTS.resize,
    show_default=True,
    help="Photographs become squares of this side.",
)
@click.option(
    "--crop",
    type=click.IntRange(min=32),
    default=DEFAULTS.crop,
    show_default=True,
    help="Random crops of this side are trained on; at most --resize.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=DEFAULTS.batch_size, show_default=True
)
@click.option("--epochs", type=click.IntRange(min=1), default=DEFAULTS.epochs, show_default=True)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULTS.lr,
    show_default=True,
    help="Adam's learning rate.",
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine"]),
    default=DEFAULTS.schedule,
    show_default=True,
    help="Of the learning rate: as published, or down to 0.",
)
@click.option("--seed", type=click.IntRange(min=0), default=DEFAULTS.seed, show_default=True)
@click.option(
    "--validate-every",
    type=click.IntRange(min=1),
    default=DEFAULTS.validate_every,
    show_default=True,
    metavar="EPOCHS",
    help="Max F, MAE, pictures and best.pth, so often.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    default="float32",
    show_default=True,
    help="Of the network's arithmetic; weights and loss stay float32.",
)
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the network.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Processes that decode and resize.",
)
def main(
    images: Path,
    out: Path,
    masks: Path | None,
    val: Path | None,
    val_masks: Path | None,
    encoder_weights: Path | None,
    resume: bool,
    device: str,
    precision: str,
    compiled: bool,
    workers: int,
    **options,
) -> None:
    """Train BASNet on the photographs in IMAGES and their ground truth.

    IMAGES is DUTS-TR as it is unpacked (DUTS-TR-Image and DUTS-TR-Mask in it), or any folder of
    photographs with --masks. All defaults are the published training's. Ctrl-C or SIGTERM saves;
    the same command with --resume goes on, with the same result as if nothing had happened.

    \b
    Examples:
      python -m saliency.basnet.train DUTS-TR --out run --from-scratch --val DUTS-TE
      python -m saliency.basnet.train photos --masks masks --hold-out 200 --out run \\
          --from-scratch --width 0.125 --resize 128 --crop 112
    """
    place = pick_device(device)
    dtype = pick_precision(precision, place)
    if options["batch_size"] == 1 and options["crop"] <= DEEPEST:
        raise UserError(
            f"--crop {options['crop']} with --batch-size 1 leaves batch norm one value a channel "
            f"at the deepest level; give a crop above {DEEPEST} or a larger batch."
        )
    if options["crop"] > options["resize"]:
        raise UserError(
            f"--crop {options['crop']} is larger than --resize {options['resize']}; "
            "a crop must fit into the photograph."
        )
    if not options["from_scratch"] and options["width"] != 1:
        raise UserError(
            f"--width {options['width']} does not fit a ResNet-34's weights; add --from-scratch."
        )
    if checkpoints(out) and not resume:
        raise UserError(f"--out {out} holds a run already; add --resume, or give another folder.")
    if out.is_dir() and any(out.iterdir()) and not _begun(out):
        raise UserError(f"--out {out} holds files, and no run of this; give another folder.")
    pairs, validation = _split(images, masks, val, val_masks, options["hold_out"])
    names = "\0".join(pair.name for pair in pairs)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    settings = Settings(names_digest=digest, **options)

    torch.manual_seed(settings.seed)
    network = BASNet(settings.width)
    trainer = Trainer(network, pairs, validation, out, settings, place, dtype, workers, compiled)
    resumed = resume and trainer.resume()
    if not resumed and not settings.from_scratch:
        load_encoder(network, encoder_weights)
    click.echo(
        f"{len(pairs)} photographs to train on, {len(validation)} to validate; {out} "
        + (f"goes on after step {trainer.step}" if resumed else "starts")
        + f" on {place}"
    )
    if not trainer.run():
        click.echo(f"stopped and saved after step {trainer.step}; --resume goes on from there")
        raise SystemExit(0 if trainer.stopped_by_terminate else 130)
    if validation:
        click.echo(f"best max F {trainer.best:.4f}: {out / 'best.pth'}")


def _begun(out: Path) -> bool:
    """Whether a folder is that of a run, were it one that was stopped before its first save."""
    return bool(checkpoints(out)) or {path.name for path in out.iterdir()} == {"settings.json"}


def _split(
    images: Path, masks: Path | None, val: Path | None, val_masks: Path | None, hold_out: int
) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on and to validate."""
    pairs = list_pairs(images, masks)
    if val is not None:
        if hold_out:
            raise UserError(f"--hold-out {hold_out} and --val {val}: give one of the two.")
        return pairs, list_pairs(val, val_masks, "--val")
    if val_masks is not None:
        raise UserError(f"--val-masks {val_masks} needs --val, the photographs.")
    if hold_out >= len(pairs):
        raise UserError(
            f"--hold-out {hold_out} leaves none of the {len(pairs)} photographs to train on."
        )
    return pairs[: len(pairs) - hold_out], pairs[len(pairs) - hold_out :]


if __name__ == "__main__":
    main()

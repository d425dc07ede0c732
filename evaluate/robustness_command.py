"""`probe robustness`: accuracy with backgrounds swapped, and the background gap."""

from pathlib import Path

import click

from evaluate.choices import CLASSIFIERS
from evaluate.options import (
    arch_option,
    json_option,
    mask_threshold_option,
    masks_option,
    network_options,
    out_options,
)


@click.command("robustness")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@click.argument("images", type=click.Path(path_type=Path))
@masks_option
@click.option(
    "--train",
    type=click.Path(path_type=Path),
    help="Labelled originals to train the classifier on.  [default: IMAGES' own]",
)
@click.option(
    "--classifier",
    type=click.Choice(CLASSIFIERS),
    default="linear",
    show_default=True,
    help="Its kind.",
)
@mask_threshold_option
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the choice of backgrounds.",
)
@click.option(
    "--save-variants",
    type=click.Path(path_type=Path),
    help="Also write all pictures, in ImageNet-9's layout, into this new folder.",
)
@arch_option
@network_options
@out_options
@json_option
def robustness(**given):
    """Measure accuracy with the background swapped.

    From IMAGES (train/ and val/, or class folders) and their --masks the variants of the background
    challenge (Xiao et al., ICLR 2021) are made; a folder in ImageNet-9's own layout
    (original/val/..., mixed_same/val/..., ...) is taken as it is. A classifier is trained on
    features of original training images and tested on every variant. The background gap is the
    accuracy on mixed_same minus that on mixed_rand: what a background of the right class is worth.

    Writes results.json, accuracies.png and variants.png into the folder --out.
    """
    from evaluate import robustness_probe  # takes seconds to import

    robustness_probe.run(**given)

"""`probe linear`: linear read-off on frozen features."""

from pathlib import Path

import click

from data.errors import UserError
from evaluate.linear_settings import PRESETS
from evaluate.options import FiniteRange, arch_option, json_option, network_options, out_options


def _numbers(context: click.Context, option: click.Parameter, text: str | None):
    if text is None:
        return None
    try:
        epochs = tuple(sorted(int(part) for part in text.split(",") if part.strip()))
    except ValueError:
        epochs = (0,)
    if min(epochs, default=1) < 1:
        raise UserError(f"--milestones {text} are not epochs, from 1 on; give them as 60,80.")
    return epochs


@click.command("linear")
@click.argument("checkpoint")
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    default="dilo",
    show_default=True,
    help="Published protocol: lr 30, 100 epochs, decay at 30/60/90 (dilo) or 60/80 (moco); places "
    "is lr .01 with Nesterov momentum, weight decay 1e-4, 28 epochs, decay at 7/14/21 and a batch "
    "norm without parameters before the classifier.",
)
@click.option("--lr", type=FiniteRange(0, min_open=True), help="In place of the preset's.")
@click.option("--weight-decay", type=FiniteRange(0), help="In place of the preset's.")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="In place of the preset's; its milestones move along in proportion.",
)
@click.option("--milestones", callback=_numbers, help="Epochs at which the rate is cut to a tenth.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of crops, order and initial weights.",
)
@click.option("--amp", is_flag=True, help="Run the backbone in bfloat16: faster on a GPU.")
@click.option(
    "--fast",
    is_flag=True,
    help="Features once, without augmentation, then logistic regression; minutes, not hours.",
)
@arch_option
@network_options
@out_options
@json_option
def linear(**given):
    """Train a linear classifier on frozen features.

    IMAGES holds train/ and val/ with a folder for each class; from class folders alone a fifth of
    each class is held out. The backbone stays in eval mode, and at the end is proved unchanged.
    Training crops are RandomResizedCrop(.08, 1) with flips, test crops the centre.

    A run that was stopped continues when the same command with the same --out is given again. Start
    it by torchrun to use several GPUs; --batch-size is over all of them.

    Writes results.json, classifier.pt and curve.png into the folder --out.
    """
    from evaluate import linear_probe  # takes seconds to import

    linear_probe.run(**given)

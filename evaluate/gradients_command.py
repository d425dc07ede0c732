"""`probe gradients`: class-score gradients, and how much of them falls on the object."""

from pathlib import Path

import click

from evaluate.options import (
    arch_option,
    json_option,
    mask_threshold_option,
    masks_option,
    network_options,
    out_options,
)


@click.command("gradients")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@click.argument("images", type=click.Path(path_type=Path))
@masks_option
@click.option(
    "--ground-truth", type=click.Path(path_type=Path), help="Pictures of the objects' true masks."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Test images, evenly over the classes.",
)
@click.option(
    "--pages", type=click.IntRange(1), default=40, show_default=True, help="Rows of the page."
)
@click.option(
    "--rows", type=click.IntRange(1), default=8, show_default=True, help="Rows of the PNG."
)
@mask_threshold_option
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the classifier's held-out images.",
)
@arch_option
@network_options
@out_options
@json_option
def gradients(**given):
    """Show where models look, and measure how much of it is the object.

    For each model a linear classifier is trained on its features of train/ (logistic regression, as
    probe linear --fast). Then the score of each test image's own class, before the softmax, is
    differentiated by the pixels. With --masks: the share of the gradient's energy (its squares)
    that falls inside the mask, beside the share of the area, which an even gradient would have, and
    the pointing game. The last line compares each model with the first.

    Writes results.json, gradients.png, shares.png and index.html, which holds all its pictures.
    """
    from evaluate import gradients_probe  # takes seconds to import

    gradients_probe.run(**given)

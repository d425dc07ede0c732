"""`probe`: what a network has learnt, and how good masks are, in scores and pictures."""

import click

from evaluate.knn_command import knn
from evaluate.linear_command import linear
from evaluate.robustness_command import robustness
from evaluate.saliency_command import saliency


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Judge masks and pretrained networks: scores on the terminal, JSON and pictures in files."""


for command in (saliency, knn, linear, robustness):
    main.add_command(command)

"""`probe`: what a network has learnt, and how good masks are, in scores and pictures."""

import signal
import sys

import click

from evaluate.export_command import export
from evaluate.gradients_command import gradients
from evaluate.knn_command import knn
from evaluate.linear_command import linear
from evaluate.neighbors_command import neighbors
from evaluate.processes import OneVoice, refuse_several
from evaluate.robustness_command import robustness
from evaluate.saliency_command import saliency


@click.group(cls=OneVoice, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Judge masks and pretrained networks: scores on the terminal, JSON and pictures in files."""
    sys.stdout.reconfigure(errors="backslashreplace")  # keys may hold what a terminal cannot show
    if context.invoked_subcommand != linear.name:
        refuse_several(str(context.invoked_subcommand))
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # tidy up then, as after Ctrl-C
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


for command in (linear, knn, robustness, neighbors, gradients, saliency, export):
    main.add_command(command)

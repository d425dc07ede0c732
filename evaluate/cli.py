"""`probe`: what a network has learnt, and how good masks are, in scores and pictures."""

import click

from evaluate.saliency_command import saliency


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Judge masks and pretrained networks: scores on the terminal, JSON and pictures in files."""


main.add_command(saliency)

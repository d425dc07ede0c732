"""`probe knn`: weighted k-nearest-neighbour accuracy of frozen features."""

from pathlib import Path

import click

from evaluate.options import FiniteRange, arch_option, json_option, network_options, out_options


@click.command("knn")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--k",
    "ks",
    type=click.IntRange(1),
    multiple=True,
    default=(200,),
    show_default=True,
    help="Neighbours that vote; may be given several times.",
)
@click.option(
    "--temperature",
    type=FiniteRange(0, min_open=True),
    default=0.07,
    show_default=True,
    help="T in a vote's weight exp(similarity / T).",
)
@arch_option
@network_options
@out_options
@json_option
def knn(**given):
    """Classify by the nearest training images of frozen features.

    IMAGES holds train/ and val/ with a folder for each class, or the class folders themselves; then
    each image is classified by all others. A CHECKPOINT is a run of pretrain, a file with weights
    of one of torchvision's networks, torchvision:NAME for supervised weights on disk, or
    random:NAME for the untrained network. Several are compared; NAME=CHECKPOINT names one.

    The k training images of largest cosine similarity s vote with weight exp(s / T), as in Wu et
    al., CVPR 2018. Writes results.json into the folder --out.
    """
    from evaluate import knn_probe  # takes seconds to import

    knn_probe.run(**given)

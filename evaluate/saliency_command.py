"""`probe saliency`: masks against ground truth, in one table and one plot."""

from pathlib import Path

import click

from data.options import number_of_jobs
from evaluate.options import json_option, out_options


@click.command("saliency")
@click.argument("masks", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("ground_truth", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="The photographs; adds examples.png, from the best to the worst mask.",
)
@click.option(
    "--rows", type=click.IntRange(1), default=8, show_default=True, help="Of examples.png."
)
@click.option("--quick", is_flag=True, help="F and MAE alone; leaves out the slower measures.")
@click.option(
    "--resize", is_flag=True, help="Scale masks of another size to the ground truth's, bilinearly."
)
@click.option(
    "--jobs",
    default=-1,
    show_default=True,
    callback=number_of_jobs,
    help="Processes; -1 takes all cores.",
)
@out_options
@json_option
def saliency(**given):
    """Score saliency MASKS against GROUND_TRUTH.

    MASKS is a folder of mask shards, as saliency-compute writes them, or a folder of pictures.
    Give several to compare them. GROUND_TRUTH is a folder of pictures, foreground above 128. A mask
    belongs to the ground truth of the same path without its suffix.

    \b
    max F, mean F   precision and recall averaged over the images at each of 256 thresholds, then F
                    with beta^2 = .3: its maximum and its mean over the thresholds
    MAE             mean absolute error
    weighted F      Margolin et al. 2014;  S: Fan et al. 2017;  E: Fan et al. 2018

    Writes results.json and precision-recall.png into the folder --out.
    """
    from evaluate import saliency_probe  # takes seconds to import

    saliency_probe.run(**given)

"""`probe neighbors`: queries and their nearest neighbours, model beside model (DiLo, Figure 2)."""

from pathlib import Path

import click

from evaluate.options import arch_option, json_option, network_options, out_options


@click.command("neighbors")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--neighbors", "count", type=click.IntRange(1), default=5, show_default=True, help="A query's."
)
@click.option(
    "--queries", type=click.IntRange(1), default=40, show_default=True, help="Rows of the page."
)
@click.option(
    "--rows", type=click.IntRange(1), default=10, show_default=True, help="Rows of the PNG."
)
@click.option(
    "--limit", type=click.IntRange(1), help="Use this many queries, evenly over the classes."
)
@arch_option
@network_options
@out_options
@json_option
def neighbors(**given):
    """Show queries and their nearest neighbours, model beside model.

    Queries are the images of val/, neighbours those of train/; from class folders alone both are
    all images. Neighbours are the images of largest cosine similarity. A green frame has the
    query's label, a red one another. The queries where the models differ most in their share of
    right neighbours come first; with one model, those with the fewest right ones.

    Writes results.json, neighbors.png and index.html, which holds all its pictures.
    """
    from evaluate import neighbors_probe  # takes seconds to import

    neighbors_probe.run(**given)

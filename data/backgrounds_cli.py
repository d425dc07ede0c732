"""`mask-shards backgrounds`: a pool of crops that no saliency method found anything in."""

from pathlib import Path

import click
from tqdm import tqdm

from data.background_pool import PoolSettings, build_pool

_folder = click.Path(path_type=Path)
_default = PoolSettings()


@click.command()
@click.argument("images", type=_folder)
@click.argument("masks", type=_folder, nargs=-1, required=True)
@click.argument("pool", type=_folder)
@click.option(
    "--threshold",
    default=_default.threshold,
    show_default=True,
    help="A pixel responds where a mask is above this share of full saliency.",
)
@click.option(
    "--tolerance",
    default=_default.tolerance,
    show_default=True,
    help="The share of responding pixels that a crop may have.",
)
@click.option(
    "--min-side",
    default=_default.min_side,
    show_default=True,
    help="A crop's smallest side, in pixels of its image.",
)
@click.option(
    "--size", default=_default.size, show_default=True, help="Side of the stored crops, in pixels."
)
@click.option("--limit", default=_default.limit, show_default=True, help="Most crops.")
@click.option("--seed", default=_default.seed, show_default=True, help="Of the images' order.")
@click.option("--overwrite", is_flag=True, help="Replace POOL where it exists.")
def backgrounds(
    images: Path, masks: tuple[Path, ...], pool: Path, overwrite: bool, **options: float
) -> None:
    """Make POOL, a file of crops of IMAGES without saliency response.

    MASKS is a folder of mask shards of IMAGES, or several, by different methods: then a crop is
    taken only where no method responds. Of an image the largest such square is taken. Pretraining
    pastes foregrounds on these crops with --background imagenet --background-pool POOL.

    A stored crop of 256 pixels takes 192 KB: 10,000 of them 1.9 GB.
    """
    settings = PoolSettings(**options)
    with tqdm(desc="backgrounds", unit=" images", disable=None, leave=False) as bar:

        def progress(_: int, found: int) -> None:
            bar.set_postfix(crops=found, refresh=False)
            bar.update()

        report = build_pool(images, masks, pool, settings, overwrite, progress)
    notes = [f"{report.without_mask:,} had no mask"] * bool(report.without_mask)
    notes += [f"{report.unreadable:,} could not be read"] * bool(report.unreadable)
    size = pool.stat().st_size / 2**20
    click.echo(
        f"{report.crops:,} crops of {report.looked_at:,} images in {pool} ({size:,.1f} MB)"
        + "".join(f"; {note}" for note in notes)
    )

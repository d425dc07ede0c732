"""How fast the saliency stage is, and where the time goes.

    python -m benchmarks.saliency --images DIR [--limit 200] [--max-side 400]

With `--peer MODULE:FUNCTION`, a function from an image's path to its map, such as pyimgsaliency's
`pyimgsaliency.saliency:get_saliency_rbd`, the ratio to it on the same images is printed too.

Prints, as Markdown tables: images a second with everything included (decode, resize, superpixels,
saliency, compress, write), for one core and for all; milliseconds a phase; the ratio to the floor,
which is decoding plus one pass of superpixels; and the cost against the image's size. Medians, all
in one run: compare ratios, not runs.
"""

import importlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
from tabulate import tabulate
from threadpoolctl import threadpool_limits

from data.images.decode import decode
from data.images.listing import key_path, list_images
from data.keys import Keys
from data.masks.format import ChunkEncoder
from saliency.batch import Plan, make_shards
from saliency.maps import choose, compute_maps
from saliency.methods import gs as geodesic
from saliency.methods import mc as markov_chain
from saliency.methods import rbd as robust_background
from saliency.regions import slic
from saliency.regions import superpixels as regions
from saliency.regions.colour import SPLIT
from saliency.regions.region_graph import RegionGraph, all_pairs_within
from saliency.workers import Workers, to_uint8, usable_cores

METHODS = ("rbd", "mc", "gs", "fusion")
AUTHORS = {"superpixels": "authors"}
AUTHORS_MS = {"rbd": 110.0, "mc": 1240.0}  # their code's, in Octave with its C++ SLIC, on one core


class Stopwatch:
    """Collects wall times by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function: Callable, *arguments):
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds[name].append(time.perf_counter() - started)
        return result

    def milliseconds(self, name: str) -> float:
        return 1000 * float(np.median(self.seconds[name]))


def throughput(images: Path, keys: Keys, method: str, max_side: int, jobs: int) -> float:
    """Images a second of the whole batch stage, workers' start excluded."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            images=images,
            keys=keys,
            folders={method: Path(folder) / "masks"},
            parameters={method: {}},
            map_function=partial(compute_maps, chosen=choose([method], AUTHORS)),
            max_side=max_side,
        )
        workers = Workers(jobs)
        list(workers.run(partial(warm_up, method) for _ in range(4 * jobs)))
        started = time.perf_counter()
        make_shards(plan, workers.compute, show_progress=False)
        return len(keys) / (time.perf_counter() - started)


def warm_up(method: str) -> None:
    sample = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    compute_maps(sample, choose([method], AUTHORS))


def one_pass(tiles: np.ndarray, h: int, w: int, side: int) -> None:
    """One iteration of SLIC's k-means: the least that any superpixel method does."""
    seeds = slic._seeds_split(h, w, side)
    slic._k_means(tiles, tiles, h, w, *seeds, side, (20 / side) ** 2, 1)


def phases(images: Path, keys: Keys, max_side: int) -> Stopwatch:
    """Time each phase on every image, twice."""
    watch = Stopwatch()
    encoder = None
    for key in list(keys) * 2:
        image = watch("decode", decode, key_path(images, key), max_side).image
        h, w = image.shape[:2]
        side = max(3, int(np.sqrt(h * w / max(1, int(h * w / 600 + 0.5))) + 0.5))
        tiles = watch("colour", slic._tiled, image, SPLIT, np.float32)
        watch("one pass", one_pass, tiles, h, w, side)
        watch("superpixels (RBD, GS)", slic.slic_split, image)
        graph = watch("superpixels and graph", RegionGraph.of, image)
        edge = watch("scales", lambda g: (g.within_two, g.geodesic_edge)[1], graph)
        watch("geodesic (all pairs)", all_pairs_within, edge, 3 * graph.geodesic_sigma)
        values = watch("RBD on the graph", robust_background.superpixel_saliency, graph)
        watch("GS on the graph", geodesic.superpixel_saliency, graph)
        segments = watch("superpixels (MC)", slic.slic_epfl, image)
        watch("MC on the superpixels", markov_chain.superpixel_saliency, segments, image)
        saliency = watch("paint", regions.paint, graph.superpixels, values.astype(np.float32))
        mask = watch("quantise", to_uint8, saliency)
        if encoder is None or encoder.canvas < max(h, w):
            encoder = ChunkEncoder(max(h, w))
        watch("compress", encoder.encode, mask)
    return watch


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--images", type=click.Path(path_type=Path), required=True)
@click.option("--limit", default=200, show_default=True)
@click.option("--max-side", default=400, show_default=True)
@click.option(
    "--repeat", default=3, show_default=True, help="Runs a throughput; the median counts."
)
@click.option("--sizes/--no-sizes", default=True, help="Cost against image size.")
@click.option(
    "--peer", metavar="MODULE:FUNCTION", help="From a path to a map; to compare with RBD."
)
def main(
    images: Path, limit: int, max_side: int, repeat: int, sizes: bool, peer: str | None
) -> None:
    """Measure the saliency stage on the first images of a folder."""
    cv2.setNumThreads(1)
    threadpool_limits(1)
    keys = list_images(images)[:limit]
    for method in METHODS:
        warm_up(method)
    watch = phases(images, keys[:100], max_side)
    floor = watch.milliseconds("decode") + watch.milliseconds("one pass")

    cores = usable_cores()
    rows, speeds = [], {}
    for method in METHODS:
        speed = {
            jobs: np.median(
                [throughput(images, keys, method, max_side, jobs) for _ in range(repeat)]
            )
            for jobs in {1, cores}
        }
        each = 1000 / speed[1]
        speeds[method] = speed[1]
        theirs = AUTHORS_MS[method] / each if method in AUTHORS_MS else None
        both = speed[cores], speed[cores] / speed[1]
        rows.append([method, speed[1], *both, each, each / floor, theirs])
    headers = ["method", "images/s, 1 core", f"{cores} cores", "ratio", "ms an image", "to floor"]
    headers.append("authors' time to this")
    click.echo(f"{len(keys)} images, long side at most {max_side or 'native'}, all included\n")
    click.echo(tabulate(rows, headers, "github", floatfmt=".2f"))
    click.echo(f"\nfloor: decode + one pass of superpixels = {floor:.2f} ms\n")
    if peer:
        module, _, function = peer.partition(":")
        theirs = against_peer(getattr(importlib.import_module(module), function), images, keys)
        click.echo(
            f"{peer}: {theirs:.0f} ms an image, {theirs * speeds['rbd'] / 1000:.0f} x RBD's\n"
        )
    names = [[name, watch.milliseconds(name)] for name in watch.seconds]
    click.echo(tabulate(names, ["phase", "ms, median"], "github", floatfmt=".3f"))
    if sizes:
        click.echo("\n" + tabulate(against_size(images, keys), SIZE_HEADERS, "github", ".3g"))


def against_peer(function: Callable, images: Path, keys: Keys) -> float:
    """Median milliseconds of another program, from an image's path to its map."""
    watch = Stopwatch()
    for key in keys[:10]:
        watch("peer", function, key_path(images, key))
    return watch.milliseconds("peer")


SIZE_HEADERS = ["long side", "method", "images/s, 1 core", "ms an image", "ns / (n log2 n)"]


def against_size(images: Path, keys: Keys) -> list[list]:
    """Images a second, without decoding, of the same photographs at four sizes."""
    rows = []
    photographs = [decode(key_path(images, key)).image for key in keys[:5]]
    for method in METHODS:
        for long_side in (200, 400, 800, 1600):
            seconds, pixels = [], []
            for photograph in photographs:
                scale = long_side / max(photograph.shape[:2])
                image = cv2.resize(photograph, None, fx=scale, fy=scale)
                started = time.perf_counter()
                compute_maps(image, choose([method]))
                seconds.append(time.perf_counter() - started)
                pixels.append(image.shape[0] * image.shape[1])
            each, n = np.median(seconds), np.median(pixels)
            rows.append([long_side, method, 1 / each, 1e3 * each, 1e9 * each / (n * np.log2(n))])
    return rows


if __name__ == "__main__":
    main()

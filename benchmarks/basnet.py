"""How fast BASNet makes mask shards, and how long the device waits for images.

    python -m benchmarks.basnet --images DIR [--weights basnet.pth] [--device cuda] [--jobs 8]

Prints, as Markdown tables: milliseconds an image of each step, in one process and thread (the
network on the device, which does not wait for the map's way back: the stage hides that); and images
a second of the whole stage (decode, resize, network, stretch, resize, compress, write) with the
share of the time for which the device waited, from its first batch on; sending a batch there does
not count as waiting. The last row has a network that costs nothing: what the workers could feed.
The photographs in DIR are gone through again until there are --limit, so that a run takes much
longer than its workers' start. Choosing algorithms is done before. Medians of several runs, all in
one go: compare ratios, not runs.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from tabulate import tabulate

from benchmarks.training.device import median_seconds
from data.device import (
    PRECISIONS,
    as_current,
    default_batch_size,
    memory_layout,
    pick_device,
    pick_precision,
)
from data.errors import UserError
from data.images.decode import UnreadableImage, capped_size, decode
from data.images.listing import key_path, list_images
from data.keys import Keys
from data.masks.format import ChunkEncoder
from saliency.basnet import BASNet, Predictor, load_basnet
from saliency.basnet.predict import SIZE, preprocess
from saliency.batch import Plan, make_shards
from saliency.device_stage import DeviceStage
from saliency.workers import to_uint8, usable_cores

MAX_SIDE = 400
NETWORK_SECONDS = 2.0  # for which a GPU computes batches, so that its clock has settled


class FreeNetwork(Predictor):
    """BASNet's work outside the network, with the input's first channel as the map."""

    def compute(self, batch: torch.Tensor, keys: list[str]) -> torch.Tensor:
        return batch[:, 0]


@contextmanager
def repeated(images: Path, count: int) -> Iterator[tuple[Path, Keys]]:
    """A folder of so many photographs, those in `images` again and again, and its keys."""
    rounds = math.ceil(count / len(list_images(images)))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            (Path(folder) / f"{number:05d}").symlink_to(images.resolve())
        yield Path(folder), list_images(folder)[:count]


def network_milliseconds(method: Predictor, batch: torch.Tensor) -> float:
    """Milliseconds an image of the network, on a batch that is on the device and stays there."""

    def call() -> None:
        method.compute(batch, [])

    call()  # compiles
    seconds = NETWORK_SECONDS if method.device.type == "cuda" else 0.0
    return 1000 * median_seconds(call, method.device, seconds, repeat=3) / len(batch)


def steps(images: Path, keys: Keys, method: Predictor) -> list[list]:
    """Milliseconds an image of every step, one process and thread; the network by batches."""
    cv2.setNumThreads(1)  # as in a worker
    encoder = ChunkEncoder(MAX_SIDE)
    rows: dict[str, list[float]] = {}

    def timed(name: str, function, *arguments):
        started = time.perf_counter()
        result = function(*arguments)
        rows.setdefault(name, []).append(1000 * (time.perf_counter() - started))
        return result

    prepared = None
    for key in list(keys)[:100]:
        try:
            image, size = timed("decode", decode, key_path(images, key))
        except UnreadableImage:
            continue
        prepared = timed("resize, normalise", preprocess, image, SIZE)
        soft = prepared[0] - prepared[0].min()
        small = capped_size(size, MAX_SIDE)
        saliency = timed("stretch, resize back", method.finish, soft, prepared, small)
        timed("compress", encoder.encode, to_uint8(saliency))
    if prepared is None:
        raise UserError(f"--images: the first photographs in {str(images)!r} cannot be read.")
    with as_current(method.device):
        batch = torch.from_numpy(np.stack([prepared] * method.batch_size))
        batch = batch.to(method.device, memory_format=memory_layout(method.device))
        rows["network"] = [network_milliseconds(method, batch)]
    return [[name, float(np.median(values))] for name, values in rows.items()]


def stage(images: Path, keys: Keys, method: Predictor, jobs: int) -> tuple[float, float]:
    """Images a second of the whole stage, and the share of the time the device waited."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            images, keys, {"basnet": Path(folder) / "masks"}, {"basnet": {}}, max_side=MAX_SIDE
        )
        compute = DeviceStage(method, jobs)
        started = time.perf_counter()
        make_shards(plan, compute, show_progress=False)
        return len(keys) / (time.perf_counter() - started), compute.waiting_share


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--images", required=True, type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="Random ones without.")
@click.option("--width", default=1.0, show_default=True, help="Of the random network.")
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", *PRECISIONS]), default="auto")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: 64, on a CPU 8]")
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="[default: one a core]")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Photographs a run, repeated if need be.  [default: 16000, on a CPU 200]",
)
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True)
def main(
    images: Path,
    weights: Path | None,
    width: float,
    device: str,
    precision: str,
    batch_size: int | None,
    jobs: int | None,
    limit: int | None,
    repeat: int,
) -> None:
    """Time BASNet's stage on the photographs in --images."""
    jobs = jobs or usable_cores()
    place = pick_device(device)
    batch_size = batch_size or default_batch_size(place)
    limit = limit or (200 if place.type == "cpu" else 16000)
    dtype = pick_precision(precision, place)
    network = load_basnet(weights) if weights is not None else BASNet(width)
    method = Predictor(network, place, dtype, batch_size)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    channels = network.inconv.out_channels
    print(
        f"{limit} photographs, BASNet of {channels} channels at {SIZE}x{SIZE} on {name}, "
        f"{str(dtype or torch.float32).split('.')[-1]}, batches of {batch_size}, {jobs} workers, "
        f"PyTorch {torch.__version__}\n"
    )

    table = []
    with repeated(images, limit) as (folder, keys):
        rows = steps(folder, keys, method)
        print(tabulate(rows, ["step", "ms an image"], "github", floatfmt=".2f"), "\n", flush=True)
        stage(folder, keys[: min(limit, batch_size)], method, jobs)  # caches, clocks
        for label, what in (
            ("BASNet", method),
            ("a network that costs nothing", FreeNetwork(network, place, dtype, batch_size)),
        ):
            runs = [stage(folder, keys, what, jobs) for _ in range(repeat)]
            rate, waiting = np.median(runs, axis=0)
            share = f"{waiting:.1%}" if what is method else "-"
            table.append([label, rate, rate / jobs, share])
    headers = ["stage", "images/s", "images/s a worker", "device waits"]
    print(tabulate(table, headers, "github", floatfmt=".1f"))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.training`: what each part of training costs, and how close the whole comes.

One table: images a second of every part alone, of the whole by the public command, and of a plain
PyTorch script on the same images; then the losses, several processes, and the start on a large
folder. All in one go on one machine, so that the ratios hold. Each row is printed when it is
measured; a part that fails becomes a row with the reason, and the exit code is then 1. Without
--images it makes its own photographs, of 500x375 pixels.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import click
import torch

from benchmarks.training.device import current_device, device_name, processes_at_most
from benchmarks.training.failures import Failures
from benchmarks.training.losses import LossCost, loss_cost, loss_rows
from benchmarks.training.made import compute_masks, files_for, make_images_and_masks
from benchmarks.training.scaling import processes_rate
from benchmarks.training.start_up import start_up_report
from benchmarks.training.step import StepCost
from benchmarks.training.table import Table
from benchmarks.training.throughput import Subject, Throughput
from data.options import parse_assignment
from data.processes import usable_cores
from pretrain.settings import Settings, build_settings

ON_CPU = {"arch": "resnet18", "image_size": 64, "batch_size": 64, "precision": "bfloat16"}
ON_CUDA = {"arch": "resnet50", "image_size": 224, "batch_size": 256, "compile": True}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--images", type=click.Path(path_type=Path), help="JPEGs in class folders.")
@click.option("--masks", type=click.Path(path_type=Path), help="Their mask shards.")
@click.option("--device", "name", default="auto", show_default=True)
@click.option(
    "--workers", type=click.IntRange(0), help="Loading processes of the whole.  [one for each core]"
)
@click.option(
    "--processes",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="For torchrun, at most one a GPU; below 2: none.",
)
@click.option("--seconds", type=float, default=8.0, show_default=True, help="Of a row.")
@click.option("--bank", type=int, help="Vectors in the bank.  [1,281,167; 131,072 on a CPU]")
@click.option("--start-up", type=int, default=0, help="Time it on so many made-up images too.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Of pretrain.")
def main(
    images, masks, name, workers, processes, seconds, bank, start_up, assignments
) -> None:  # fmt: skip
    """Print the throughput of training, from JPEG to gradient."""
    began = time.monotonic()
    device = current_device(name)
    cuda = device.type == "cuda"
    cores = usable_cores()
    workers = cores if workers is None else workers
    processes = processes_at_most(processes, name, device)
    layers = [ON_CUDA if cuda else ON_CPU, {"negatives": "all"}]
    layers += [parse_assignment(text, Settings) for text in assignments]
    batch = build_settings(*layers).batch_size
    failures = Failures()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if images is None:
            images, masks = make_images_and_masks(folder, files_for(batch, workers, processes))
        elif masks is None:
            masks = folder / "masks"
            compute_masks(images, masks)
        settings = build_settings(*layers, {"images": str(images), "masks": str(masks)})
        print(
            f"{settings.method.name}, {settings.arch}, {settings.image_size} px, batch {batch}, "
            f"{device_name(device)}, {cores} cores, torch {torch.__version__}"
        )
        subject = Subject(settings, device, workers, cores, seconds, folder)
        throughput = Throughput(subject, failures)
        throughput.measure()
        bank = bank or (1_281_167 if cuda else 131_072)
        _print_losses(subject, bank, throughput.step, failures)
        if processes > 1:
            _print_scaling(subject, processes, failures)
        if start_up:
            report = failures.attempt(
                "start-up",
                partial(start_up_report, folder, start_up),
                lambda reason: print(f"\nThe start on a large folder failed: {reason}"),
            )
            print(report or "", flush=True)
    print(
        f"\nPeak memory of this process: {_peak(resource.RUSAGE_SELF):.1f} GB, of its largest "
        f"child: {_peak(resource.RUSAGE_CHILDREN):.1f} GB. All this took "
        f"{(time.monotonic() - began) / 60:.1f} minutes."
    )
    if failures.names:
        print(f"Not measured: {'; '.join(failures.names)}.")
        sys.exit(1)


def _print_losses(subject: Subject, bank: int, step: StepCost | None, failures: Failures) -> None:
    """Print a table of the losses over a bank of so many vectors."""
    table = Table(("loss and its gradient", "ms", "of a step", "MB beyond the bank"), failures)

    def cells(cost: LossCost) -> tuple[str, str, str]:
        share = "" if step is None else f"{cost.seconds / step.seconds:.1%}"
        memory = "" if math.isnan(cost.memory) else f"{cost.memory / 1e6:.0f}"
        return f"{1e3 * cost.seconds:.1f}", share, memory

    def tell(reason: str) -> None:
        table.row("all", "failed", "", reason)

    batch, device = subject.batch, subject.device
    make = partial(loss_rows, batch, subject.settings.method.dim, bank, device)
    for name, call in (failures.attempt("losses", make, tell) or {}).items():
        table.measure(name, partial(loss_cost, call, device), cells)


def _print_scaling(subject: Subject, processes: int, failures: Failures) -> None:
    """Print a table of one process and of several."""
    heads = (f"torchrun, {subject.batch} images a step and process", "images/s", "")
    table = Table(heads, failures)
    found = {}
    for count in (1, processes):
        found[count] = table.measure(
            f"{count} process{'es' * (count > 1)}",
            partial(
                processes_rate,
                subject.settings,
                subject.device,
                count,
                subject.workers,
                2 * subject.seconds,
                subject.folder,
            ),
            lambda rate: (f"{rate.images_per_second:,.0f}", f"{rate.waiting:.1%} waiting"),
        )
    if None not in found.values():
        one, several = (rate.images_per_second for rate in found.values())
        print(f"\n{processes} processes are {several / one:.2f} times as fast as one.", flush=True)


def _peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()

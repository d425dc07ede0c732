"""`python -m benchmarks.training`: what each part of training costs, and how close the whole comes.

One table: images a second of every part alone, of the whole by the public command, and of a plain
PyTorch script on the same images; then the losses, the listing of a folder, and several processes.
All in one go on one machine, so that the ratios hold; medians. Without --images it makes its own
photographs, of 500x375 pixels.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
from tabulate import tabulate

from benchmarks.training import parts
from benchmarks.training.data import make_photographs
from benchmarks.training.plain_script import plain_rate
from benchmarks.training.start_up import start_up_report
from data.images import list_images
from data.loading_workers import usable_cores
from pretrain.config import Settings, build_settings, parse_assignment
from pretrain.metrics import read_metrics

ON_CPU = {"arch": "resnet18", "image_size": 64, "batch_size": 64, "precision": "bfloat16"}
ON_CUDA = {"arch": "resnet50", "image_size": 224, "batch_size": 256, "compile": True}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--images", type=click.Path(path_type=Path), help="JPEGs in class folders.")
@click.option("--masks", type=click.Path(path_type=Path), help="Their mask shards.")
@click.option("--device", default="auto", show_default=True)
@click.option("--workers", type=int, help="Loading processes of the whole.  [one for each core]")
@click.option("--processes", type=int, default=2, show_default=True, help="For torchrun; 0: none.")
@click.option("--seconds", type=float, default=15.0, show_default=True, help="Of a row.")
@click.option("--bank", type=int, help="Vectors in the bank.  [1,281,167; 131,072 on a CPU]")
@click.option("--start-up", type=int, default=0, help="Time it on so many made-up images too.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Of pretrain.")
def main(
    images, masks, device, workers, processes, seconds, bank, start_up, assignments
) -> None:  # fmt: skip
    """Print the throughput of training, from JPEG to gradient."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    cuda = device.type == "cuda"
    cores = usable_cores()
    workers = cores if workers is None else workers
    defaults = ON_CUDA if cuda else ON_CPU
    given = [parse_assignment(text) for text in assignments]
    with tempfile.TemporaryDirectory() as folder:
        if images is None:
            images = Path(folder) / "photographs"
            make_photographs(images, max(512, 2 * defaults["batch_size"]))
        if masks is None:
            masks = Path(folder) / "masks"
            _run("saliency", images, masks, "--method", "rbd")
        layer = {"images": str(images), "masks": str(masks), "negatives": "all"}
        settings = build_settings(defaults, layer, *given)
        print(_describe(settings, device, cores))
        ceiling = _measure(settings, images, masks, device, workers, cores, seconds, folder)
        print(_losses(settings, device, bank or (1_281_167 if cuda else 131_072), ceiling))
        if processes > 1:
            print(_scaling(settings, device, processes, seconds, Path(folder)))
        if start_up:
            print(start_up_report(Path(folder), start_up))
    print(f"\nPeak memory of this process: {_peak(resource.RUSAGE_SELF):.1f} GB", end="")
    print(f", of its largest child: {_peak(resource.RUSAGE_CHILDREN):.1f} GB", end="")
    print(f", of the device: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if cuda else "")


def _measure(
    settings: Settings,
    images: Path,
    masks: Path,
    device: torch.device,
    workers: int,
    cores: int,
    seconds: float,
    folder: str,
) -> float:
    """Print the main table; return the seconds of a step on synthetic views."""
    batch = settings.batch_size
    step = parts.SyntheticStep(settings, len(list_images(images)), device)
    flops = parts.SyntheticStep(
        settings.model_copy(update={"compile": False}), batch, device
    ).flops()
    ceiling = parts.median_seconds(step, max(5, int(seconds / 2)), device)
    del step
    lowered = settings.precision == "bfloat16" or device.type == "cuda"
    peak = parts.matmul_flops(device, torch.bfloat16 if lowered else torch.float32)
    rows = [["model on synthetic views: the ceiling", batch / ceiling, ""]]

    def loader(count: int, paste: bool = True) -> parts.Loader:
        return parts.loader_of(settings, images, masks, count, paste)

    decoding, reading = parts.decode_and_crop(settings, loader(0), 200)
    rows.append(["one core: decode and crop", 1 / decoding, ""])
    rows.append(["one core: read a mask", 1 / reading, f"{reading / decoding:.1%} of the above"])
    counts = sorted({1, *(2**n for n in range(1, 6) if 2**n <= cores), workers} - {0})
    found = {count: parts.loader_rate(loader(count), batch, seconds) for count in counts}
    for count, rate in found.items():
        rows.append([f"loader, {count} workers", rate, f"{rate / count:.0f} a worker"])
    last = workers or 1
    plain = parts.loader_rate(loader(last, paste=False), batch, seconds)
    against = f"{found[last] / plain:.3f} with copy-paste"
    rows.append([f"loader, {last} workers, nothing pasted", plain, against])
    augmenting = parts.augment_seconds(settings, loader(0), device)
    rows.append(["augmentation on the device", batch / augmenting, ""])
    whole, wait = _whole(settings, device, workers, seconds, Path(folder) / "whole")
    rows.append(["whole, by `pretrain`", whole, f"{whole * ceiling / batch:.3f} of the ceiling"])
    if device.type == "cuda":  # on a CPU it only moves the work to the main process
        there = parts.loader_of(settings, images, masks, workers, True, decode_on=device)
        rate = parts.loader_rate(there, batch, seconds)
        name = f"loader, {workers} workers, decode = device"
        rows.append([name, rate, f"{rate / max(1, workers):.0f} a worker"])
        decoding = settings.model_copy(update={"decode": "device"})
        rate, wait_there = _whole(decoding, device, workers, seconds, Path(folder) / "device")
        against = f"{rate / whole:.2f} times the above, {wait_there:.1%} waiting"
        rows.append(["whole, by `pretrain`, decode = device", rate, against])
    theirs = plain_rate(settings, images, workers, device, seconds)
    against = f"ours: {whole / theirs:.2f} times"
    rows.append(["plain PyTorch script, no copy-paste", theirs, against])
    print(tabulate(rows, ["", "images/s", ""], tablefmt="github", floatfmt=".0f"))
    print(
        f"\nThe loop waited for images {wait:.1%} of the time. A step is "
        f"{flops / batch / 1e9:.1f} GFLOP an image: the ceiling is "
        f"{flops / ceiling / peak:.1%} of the {peak / 1e12:.2f} TFLOP/s of a large product here, "
        f"the whole {whole / batch * flops / peak:.1%}. One core loads "
        f"{rows[3][1]:.0f} images/s, so this model takes {batch / ceiling / rows[3][1]:.1f} cores "
        "beside what the step itself needs."
    )
    return ceiling


def _whole(
    settings: Settings,
    device: torch.device,
    workers: int,
    seconds: float,
    out: Path,
    start: tuple[str, ...] = (sys.executable, "-m"),
) -> tuple[float, float]:
    """Run `pretrain` for some time; return its images a second and the share of waiting."""
    words = [*start, "pretrain", settings.images, "--out", str(out), "--masks", settings.masks]
    words += ["--device", device.type, "--workers", str(workers), "--epochs", "100000"]
    skipped = {"images", "masks", "device", "workers", "epochs"}
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        if name not in skipped:
            words += ["--set", f"{name}={json.dumps(value)}"]
    words += ["--set", "log_every=5", "--set", "knn_every=0", "--allow-missing-masks"]
    words += ["--set", "checkpoint_every_minutes=0"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    warm = None
    while True:
        time.sleep(0.5)
        if process.poll() is not None:
            sys.exit(f"pretrain ended early, with code {process.returncode}: {' '.join(words)}")
        lines = read_metrics(out / "metrics.jsonl")
        if warm is None and len(lines) >= 15:
            warm = time.monotonic()
        if warm is not None and time.monotonic() - warm > 2 * seconds:
            break
    process.terminate()
    process.wait()
    lines = read_metrics(out / "metrics.jsonl")[15:]
    return (
        statistics.median(line["images_per_second"] for line in lines),
        statistics.mean(line["loader_wait"] for line in lines),
    )


def _losses(settings: Settings, device: torch.device, bank: int, ceiling: float) -> str:
    rows = [
        [name, f"{1e3 * seconds:.1f}", f"{seconds / ceiling:.1%}", f"{peak / 1e6:.0f}"]
        for name, seconds, peak in parts.loss_rows(settings.batch_size, settings.dim, bank, device)
    ]
    heads = ["loss and its gradient", "ms", "of a step", "MB beyond the bank"]
    return "\n" + tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _scaling(
    settings: Settings, device: torch.device, processes: int, seconds: float, folder: Path
) -> str:
    """One process against several by torchrun, each with its share of the cores."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        rates = [
            _whole(
                settings.model_copy(update={"batch_size": settings.batch_size * count}),
                device,
                1,
                seconds,
                folder / f"processes-{count}",
                (*torchrun, str(count), "-m"),
            )[0]
            for count in (1, processes)
        ]
    finally:
        del os.environ["OMP_NUM_THREADS"]
    return (
        f"\ntorchrun, one thread and one loading process each: 1 process {rates[0]:.0f} images/s, "
        f"{processes} processes {rates[1]:.0f}: {rates[1] / rates[0]:.2f} times."
    )


def _describe(settings: Settings, device: torch.device, cores: int) -> str:
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return (
        f"{settings.method}, {settings.arch}, {settings.image_size} px, batch "
        f"{settings.batch_size}, {name}, {cores} cores, torch {torch.__version__}\n"
    )


def _peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss * 1024 / 1e9


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()

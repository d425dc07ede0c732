"""`python -m benchmarks.miniature`: what the paper says, tried on a small labelled folder."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from pathlib import Path

import click
import torch

from benchmarks.miniature.datasets import make, planned
from benchmarks.miniature.made_with import keep_to
from benchmarks.miniature.report import Report
from benchmarks.miniature.steps import Study
from benchmarks.miniature.tables import TABLES, choose
from data.errors import UserError
from data.options import parse_assignment
from data.processes import usable_cores
from data.run import flattened
from pretrain.settings import Settings, build_settings, read_config

WHOLE = (Path(__file__).parent / "whole.toml",)
OBJECTS = (Path(__file__).parents[2] / "demo" / "objects.toml",)
REDUCED = (Path(__file__).parents[2] / "configs" / "paper.toml", "imagenette-cpu")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--images", type=click.Path(path_type=Path), help="train/ and val/ of class folders.")
@click.option(
    "--composite",
    type=click.Path(path_type=Path),
    help="Masks of IMAGES: its objects on object-free backgrounds of any class, in train and val.",
)
@click.option("--objects", is_flag=True, help="In place of IMAGES the demo's drawn objects.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the report.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs a row.")
@click.option("--only", multiple=True, type=click.Choice(sorted(TABLES)), help="Tables; all.")
@click.option(
    "--reduced/--whole",
    default=None,
    help="A few rows at 64 px, judged on a part of the images.  [reduced on a CPU]",
)
@click.option("--textures", type=click.Path(path_type=Path), help="Folder, for Table 2(c).")
@click.option("--basnet", type=click.Path(path_type=Path), help="Mask shards, for Table 2(a).")
@click.option("--device", default="auto", show_default=True, help="As for pretrain.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Runs at once, on each GPU.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Settings of every run."
)
@click.option("--judged-train", type=click.IntRange(0), help="Images of a class; 0: all.")
@click.option("--judged-val", type=click.IntRange(0), help="Images of a class; 0: all.")
@click.option(
    "--supervised-epochs", type=click.IntRange(1), help="Of the supervised network.  [as pretrain]"
)
def main(
    images, composite, objects, out, seeds, only, reduced, textures, basnet, device, jobs,
    assignments, judged_train, judged_val, supervised_epochs,
) -> None:  # fmt: skip
    """Run small versions of the paper's ablations, and write a report beside the paper's figures.

    IMAGES holds train/ and val/ with a folder for each class; of it --composite makes pictures in
    which the classes share their backgrounds. What is done is kept in OUT; the same
    command goes on where it stopped, also with other tables, more seeds, another device or more
    jobs. Everything is done by the public commands, which are printed.
    """
    if objects == (images is not None) or (objects and composite):
        raise UserError("--images is one, --objects the other; give one of the two.")
    for part in ("train", "val") if images else ():
        if not (images / part).is_dir():
            raise UserError(f"--images {images}: there is no folder {part}; give train/ and val/.")
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    reduced = not cuda if reduced is None else reduced
    seeds, base = list(range(seeds)), REDUCED if reduced else WHOLE
    layers = [
        read_config(*(OBJECTS if objects else base)),
        *(parse_assignment(text, Settings) for text in assignments),
    ]
    resolved = build_settings(*layers)  # complain before the first long work
    settings = {key: value for layer in layers for key, value in flattened(layer).items()}
    given = {"basnet": basnet} if basnet else {}
    data = planned(images, out, composite, objects)
    methods = {"rbd", "gs", "mc", *given, *(["truth"] if data.truth else [])}
    tables, left_out = choose(only, reduced, methods, textures=textures is not None)
    if not tables:
        raise UserError("--only leaves nothing to run: " + "; ".join(left_out) + ".")
    limits = (0, 0) if objects or not reduced else (300, 100)
    study = Study(
        data.images,
        out,
        settings,
        device,
        judged_train=limits[0] if judged_train is None else judged_train,
        judged_val=limits[1] if judged_val is None else judged_val,
        epochs_supervised=supervised_epochs or settings["epochs"],
        textures=textures,
        masks=given,
        truth=data.truth,
        tests=data.tests,
    )
    report = Report(
        data.images,
        settings,
        seeds,
        machine=_machine(cuda),
        command=shlex.join(["python", "-m", "benchmarks.miniature", *sys.argv[1:]]),
        tables=tables,
        left_out=left_out,
    )
    rows = {row.run: row for table in tables.values() for row in table.rows}
    started = time.monotonic()
    keep_to(study, resolved, images, composite)
    make(data, images, composite)
    study.link_judged()
    study.compute_masks({row.masks for row in rows.values() if row.masks})
    for seed in seeds:
        untrained = study.judge(f"random:{settings['arch']}#{seed}", f"untrained/seed-{seed}")
        report.references.setdefault("untrained", {})[seed] = untrained
        found = study.judge(study.supervised(seed), f"supervised/seed-{seed}")
        report.references.setdefault("supervised", {})[seed] = found
    study.pretrain_all([(row, seed) for seed in seeds for row in rows.values()], jobs)
    for seed in seeds:
        for run, row in rows.items():
            found = study.judge(study.run_folder(row, seed), f"{run}/seed-{seed}")
            report.figures.setdefault(run, {})[seed] = found
    report.seconds = _spent(out, time.monotonic() - started)
    print("\n" + report.write(out) + f"\n\nOpen {out / 'index.html'}")


def _spent(out: Path, seconds: float) -> float:
    """Return the seconds of this and of all earlier calls, and note them."""
    noted = out / "seconds.txt"
    total = seconds + (float(noted.read_text("utf-8")) if noted.exists() else 0.0)
    noted.write_text(f"{total:.0f}\n", "utf-8")
    return total


def _machine(cuda: bool) -> str:
    if cuda:
        return torch.cuda.get_device_name()
    return f"{usable_cores()} cores of a {platform.machine()} CPU"


if __name__ == "__main__":
    main()

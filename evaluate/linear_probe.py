"""`probe linear`: linear read-off on frozen features."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import click
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tabulate import tabulate

from data.errors import UserError
from evaluate import fast_linear
from evaluate.accuracy import top_k
from evaluate.checkpoints import digest
from evaluate.labelled import Labelled, Split, open_split
from evaluate.linear import Epoch, LinearProbe, LinearResult, ResumeFolder
from evaluate.linear_settings import PRESETS, LinearSettings
from evaluate.models import Model, Settings, load_models
from evaluate.options import say, say_unreadable
from evaluate.processes import refuse_several
from evaluate.results import Results, next_folder
from pretrain.parts.distributed import World, choose_device, world


def run(
    checkpoint, images, preset, lr, weight_decay, epochs, milestones, seed, amp, fast, arch,
    settings, out, overwrite, as_json,
):  # fmt: skip
    """Do `probe linear`; the arguments are its options."""
    if fast:
        refuse_several("linear --fast")
    chosen = _settings(preset, lr, weight_decay, epochs, milestones, seed, settings.batch_size)
    if fast:
        report, text, folder = _run_fast(
            checkpoint, images, seed, arch, settings, Results("linear", out, overwrite)
        )
    else:
        _check_gpus(str(settings.device))
        with world(str(settings.device)) as processes:
            settings = replace(settings, device=processes.device)
            done = _run_sgd(
                checkpoint, images, chosen, preset, amp, arch, settings, out, overwrite, processes
            )
        if done is None:
            return
        report, text, folder = done
    say_unreadable(report["unreadable"])
    say(f"the backbone is unchanged: sha256 {report['backbone_sha256'][:16]}...")
    click.echo(text if as_json else _table(report))
    say(f"{report['split']}; written to {folder}")


def _check_gpus(device: str) -> None:
    """Let every process of a host complain alike where the last has no GPU; see `OneVoice`."""
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    choose_device(device, count - 1, count)


def _settings(
    preset: str,
    lr: float | None,
    weight_decay: float | None,
    epochs: int | None,
    milestones: tuple[int, ...] | None,
    seed: int,
    batch_size: int,
) -> LinearSettings:
    """The preset with what the command line puts in its place."""
    chosen = replace(PRESETS[preset], seed=seed, batch_size=batch_size)
    if epochs is not None and milestones is None:
        moved = (round(m * epochs / chosen.epochs) for m in chosen.milestones)
        milestones = tuple(sorted({max(1, m) for m in moved}))
    given = {
        "lr": lr,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "milestones": milestones,
    }
    return replace(chosen, **{key: value for key, value in given.items() if value is not None})


def _run_sgd(
    checkpoint: str,
    images: Path,
    chosen: LinearSettings,
    preset: str,
    amp: bool,
    arch: str | None,
    settings: Settings,
    out: Path | None,
    overwrite: bool,
    processes: World,
) -> tuple[dict, str, Path] | None:
    """Train by SGD; returns the report, its JSON and folder, and None in all processes but one."""
    split = open_split(images)
    (model,) = load_models((checkpoint,), settings, arch)
    if out is None and processes.size > 1:
        raise UserError("--out is needed under torchrun: all processes must agree on one folder.")
    folder = out or next_folder("linear")
    results = Results("linear", folder, overwrite, own=(ResumeFolder.NAME,))
    if processes.first:
        results.check()
    probe = LinearProbe(model.backbone, split, chosen, processes, model.size, settings.workers, amp)
    identity = {
        "protocol": str(asdict(chosen)),
        "backbone": probe.before,
        "layer": settings.layer,
        "image size": model.size,
        "images": _images_digest(split),
        "--amp": amp,
    }
    resume = ResumeFolder(folder, identity, overwrite)
    sentence = resume.load(probe)
    if sentence and processes.first:
        say(sentence)

    def after_epoch(probe: LinearProbe) -> None:
        resume.save(probe)
        say(_line(probe.history[-1], chosen.epochs))

    result = probe.run(after_epoch)
    if not processes.first:
        return None
    with results:
        report = {
            **_common(model, split, images, settings),
            "protocol": {"preset": preset, **asdict(chosen), "amp": amp, "gpus": processes.size},
            "top1": result.history[-1].top1,
            "top5": result.history[-1].top5,
            "best_top1": max(epoch.top1 for epoch in result.history),
            "history": [asdict(epoch) for epoch in result.history],
            "backbone_sha256": result.backbone_sha256,
            "unreadable": result.unreadable,
        }
        text = results.write_json(report)
        _save_classifier(results, result, split)
        _plot(result.history, results.path("curve.png"))
    resume.remove()
    return report, text, folder


def _run_fast(
    checkpoint: str,
    images: Path,
    seed: int,
    arch: str | None,
    settings: Settings,
    results: Results,
) -> tuple[dict, str, Path]:
    split = open_split(images)
    with results:
        (model,) = load_models((checkpoint,), settings, arch)
        before = digest(model.backbone)
        train, train_labels = model.features(split.train, settings, "train")
        val, val_labels = model.features(split.val, settings, "val")
        regression = fast_linear.fit(
            train.features,
            train_labels,
            len(split.train.classes),
            seed=seed,
            device=settings.device,
        )
        after = digest(model.backbone)
        if after != before:
            raise RuntimeError("the backbone changed while features were taken")
        logits = regression(val.features)
        report = {
            **_common(model, split, images, settings),
            "protocol": {
                "fast": "logistic regression on features of the test crop",
                "c": regression.c,
                "c_tried": {f"{c:g}": accuracy for c, accuracy in regression.tried.items()},
                "c_chosen_on": f"{fast_linear.HOLDOUT:.0%} of the training images",
                "seed": seed,
            },
            "top1": top_k(logits, val_labels, 1),
            "top5": top_k(logits, val_labels, 5),
            "backbone_sha256": after,
            "unreadable": train.unreadable | val.unreadable,
        }
        text = results.write_json(report)
        state = {"weight": regression.weight, "bias": regression.bias}
        torch.save({"state_dict": state, "classes": split.train.classes}, _classifier(results))
    return report, text, results.folder


def _common(model: Model, split: Split, images: Path, settings: Settings) -> dict:
    return {
        **model.describe(),
        "images": images,
        "split": split.how,
        "train_images": len(split.train),
        "test_images": len(split.val),
        "classes": len(split.train.classes),
        "batch_size": settings.batch_size,
    }


def _images_digest(split: Split) -> str:
    sha = hashlib.sha256()
    for part in (split.train, split.val):
        sha.update("\n".join(_with_labels(part)).encode("utf-8", "surrogateescape"))
    return sha.hexdigest()[:16]


def _with_labels(images: Labelled):
    return (f"{key}\t{label}" for key, label in zip(images.keys, images.labels, strict=True))


def _classifier(results: Results) -> Path:
    return results.path("classifier.pt")


def _save_classifier(results: Results, result: LinearResult, split: Split) -> None:
    state = {key: value.cpu() for key, value in result.head.state_dict().items()}
    torch.save({"state_dict": state, "classes": split.train.classes}, _classifier(results))


def _line(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch + 1}/{epochs}  lr {epoch.lr:g}  loss {epoch.loss:.4f}  "
        f"train {100 * epoch.train_top1:.2f} %  val {100 * epoch.top1:.2f} %"
    )


def _plot(history: list[Epoch], path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [epoch.epoch + 1 for epoch in history]
    axes.plot(epochs, [100 * e.train_top1 for e in history], label="training crops", alpha=0.7)
    axes.plot(epochs, [100 * e.top1 for e in history], label="validation")
    for before, after in pairwise(history):
        if after.lr != before.lr:
            axes.axvline(after.epoch + 0.5, color="gray", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch (dotted: the rate is cut)", ylabel="top-1 %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150, format="png")


def _table(report: dict) -> str:
    protocol = report["protocol"]
    shown = {
        "checkpoint": report["label"],
        "layer": report["layer"],
        "size": report["image_size"],
        "protocol": f"fast, C {protocol['c']:g}"
        if "fast" in protocol
        else f"{protocol['preset']}, {protocol['epochs']} epochs, lr {protocol['lr']:g}",
        "top-1 %": f"{100 * report['top1']:.2f}",
        "top-5 %": "" if report["top5"] is None else f"{100 * report['top5']:.2f}",
        "train": report["train_images"],
        "test": report["test_images"],
    }
    return tabulate([shown], headers="keys", disable_numparse=True)

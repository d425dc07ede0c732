"""`probe linear`: the linear probe, a linear classifier on frozen features."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from data.errors import UserError
from data.gallery.plots import plot
from data.options import one_of, setting
from evaluate.intervals import accuracy
from evaluate.labelled import Split, open_split
from evaluate.options import (
    FLOAT32_MAX,
    Count,
    NetworkOptions,
    PoolOptions,
    Positive,
    ResultOptions,
    Seed,
)
from evaluate.protocols import PRESETS, Protocol
from evaluate.results import (
    Report,
    Results,
    cells,
    refuse_several,
    say,
    several,
    tabled,
    unreadable_notes,
)

if TYPE_CHECKING:
    from evaluate.linear_training import Epoch, Training
    from evaluate.models import Model
    from evaluate.pooling import MaskPool
    from pretrain.parts.distributed import World

SHARES_WORK = True  # among torchrun's processes
UNFINISHED = ("resume",)  # what a run that was stopped leaves in the folder --out
COLUMNS = {
    "checkpoint": "label",
    "layer": "layer",
    "pool": "pool",
    "size": "image_size",
    "protocol": "protocol",
    "top-1 %": "top1",
    "top-5 %": "top5",
    "train": "train_images",
    "test": "test_images",
}


def _epochs(text: str) -> tuple[int, ...]:
    epochs = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in epochs):
        raise ValueError("give epochs, from 1 on, as 60,80")
    return tuple(sorted(map(int, epochs)))


class Options(NetworkOptions, ResultOptions, PoolOptions):
    """Train a linear classifier on frozen features.

    IMAGES holds train/ and val/ with a folder for each class; from class folders alone a fifth of
    each class is held out. The backbone stays in eval mode, and at the end is proved unchanged.
    Training crops are RandomResizedCrop(.08, 1) with flips, test crops the centre.

    A run that was stopped continues when the same command with the same --out is given again. Start
    it by torchrun to use several GPUs; --batch-size is over all of them.

    Writes results.json, classifier.pt and curve.png into the folder --out.
    """

    checkpoint: str = setting(..., "the network", argument=True)
    images: Path = setting(..., "labelled images", argument=True)
    preset: Annotated[str, one_of(PRESETS)] = setting(
        "dilo",
        "published protocol: lr 30, 100 epochs, decay at 30/60/90 (dilo) or 60/80 (moco); places "
        "is lr .01 with Nesterov momentum, weight decay 1e-4, 28 epochs, decay at 7/14/21 and a "
        "batch norm without parameters before the classifier",
    )
    lr: Positive | None = setting(None, "in place of the preset's")
    weight_decay: Annotated[float, Field(ge=0, le=FLOAT32_MAX)] | None = setting(
        None, "in place of the preset's"
    )
    epochs: Count | None = setting(
        None, "in place of the preset's; its milestones move along in proportion"
    )
    milestones: Annotated[str, AfterValidator(_epochs)] | None = setting(
        None, "epochs at which the rate is cut to a tenth, as 60,80"
    )
    seed: Seed = setting(0, "of crops, order and initial weights")
    amp: bool = setting(False, "run the backbone in bfloat16: faster on a GPU")
    fast: bool = setting(
        False,
        "features once, without augmentation, then logistic regression; minutes, not hours",
    )

    def protocol(self) -> Protocol:
        """The preset with what the command line puts in its place."""
        preset = PRESETS[self.preset]
        given = {name: getattr(self, name) for name in ("lr", "weight_decay", "epochs")}
        given |= {"milestones": self.milestones, "seed": self.seed, "batch_size": self.batch_size}
        if self.epochs is not None and self.milestones is None:
            moved = (round(m * self.epochs / preset.epochs) for m in preset.milestones)
            given["milestones"] = tuple(sorted({max(1, m) for m in moved}))
        return replace(preset, **{key: value for key, value in given.items() if value is not None})


def run(options: Options, results: Results) -> Report | None:
    """Train and validate; None in all of torchrun's processes but the first."""
    from evaluate.pooling import open_pool

    pool = open_pool(options, options.images)
    if options.fast:
        refuse_several("linear --fast")
        content = _run_fast(options, results, pool)
    elif options.out is None and several():
        raise UserError("--out is needed under torchrun: all processes must agree on one folder.")
    else:
        from data.device import pick_device
        from pretrain.parts.distributed import world

        # each process asks for the last one's GPU, so that the first tells where it is missing
        count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        pick_device(options.device, count - 1, count)
        with world(options.device) as processes:
            content = _run_sgd(options, results, processes, pool)
        if content is None:
            return None
    protocol = content["protocol"]
    how = (
        f"fast, C {protocol['c']:g}"
        if options.fast
        else f"{options.preset}, {protocol['epochs']} epochs, lr {protocol['lr']:g}"
    )
    notes = [
        *unreadable_notes(content["unreadable"]),
        *(pool.notes() if pool else []),
        f"the backbone is unchanged: sha256 {content['backbone_sha256'][:16]}...",
        content["split"],
    ]
    top1 = accuracy(content["top1"], content["test_images"])
    content["top1_interval"] = top1[1:]
    row = cells({**content, "protocol": how, "top1": top1}, COLUMNS)
    return Report(content, tabled([row], [content["label"]])[0], notes=notes)


def _run_sgd(
    options: Options, results: Results, processes: World, pool: MaskPool | None
) -> dict | None:
    """Train by SGD; returns what the JSON says."""
    from evaluate.linear_training import LinearProbe
    from evaluate.models import load_models

    split, protocol = open_split(options.images), options.protocol()
    (model,) = load_models((options.checkpoint,), options, processes.device, pool)
    probe = LinearProbe(model, split, protocol, processes, options.amp)
    own = {"layer": options.layer, "--pool": options.pool, "--masks": str(options.masks)}
    run_resumably(probe, split, results, options.overwrite, own)
    if not processes.first:
        return None
    _save_classifier(probe.head.state_dict(), split, results)
    plot_history(probe.history, results.path("curve.png"))
    how = {"preset": options.preset, **asdict(protocol), "amp": options.amp}
    return {
        **common(model, split, options),
        "protocol": {**how, "gpus": processes.size},
        "top1": probe.history[-1].top1,
        "top5": probe.history[-1].top5,
        "best_top1": max(epoch.top1 for epoch in probe.history),
        "history": [asdict(epoch) for epoch in probe.history],
        "backbone_sha256": probe.before,
        "unreadable": probe.unreadable,
    }


def _run_fast(options: Options, results: Results, pool: MaskPool | None) -> dict:
    """Fit a logistic regression; returns what the JSON says."""
    from evaluate.checkpoints import digest
    from evaluate.classifiers import HOLDOUT, fit, top_k
    from evaluate.models import load_models

    split = open_split(options.images)
    (model,) = load_models((options.checkpoint,), options, pool=pool)
    before = digest(model.backbone)
    train, val = model.split_features(split)
    classes, device = len(split.train.classes), model.device
    regression = fit(train.features, train.labels, classes, seed=options.seed, device=device)
    if digest(model.backbone) != before:
        raise RuntimeError("the backbone changed while features were taken")
    _save_classifier({"weight": regression.weight, "bias": regression.bias}, split, results)
    logits = regression(val.features)
    return {
        **common(model, split, options),
        "protocol": {
            "fast": "logistic regression on features of the test crop",
            "c": regression.c,
            "c_tried": {f"{c:g}": accuracy for c, accuracy in regression.tried.items()},
            "c_chosen_on": f"{HOLDOUT:.0%} of the training images",
            "seed": options.seed,
        },
        "top1": top_k(logits, val.labels, 1),
        "top5": top_k(logits, val.labels, 5),
        "backbone_sha256": before,
        "unreadable": train.unreadable | val.unreadable,
    }


def _save_classifier(state: dict, split: Split, results: Results) -> None:
    import torch

    state = {key: value.cpu() for key, value in state.items()}
    content = {"state_dict": state, "classes": split.train.classes}
    torch.save(content, results.path("classifier.pt"))


def common(model: Model, split: Split, options: NetworkOptions) -> dict:
    """What a result says about model and data."""
    return {
        **model.describe(),
        **(model.pool.describe(split.images) if model.pool else {}),
        "images": options.images,
        "split": split.how,
        "train_images": len(split.train),
        "test_images": len(split.val),
        "classes": len(split.train.classes),
        "batch_size": options.batch_size,
    }


def images_digest(split: Split) -> str:
    """Tells images and their labels from others."""
    sha = hashlib.sha256()
    for part in (split.train, split.val):
        lines = (f"{key}\t{label}" for key, label in zip(part.keys, part.labels, strict=True))
        sha.update("\n".join(lines).encode("utf-8", "surrogateescape"))
    return sha.hexdigest()[:16]


def run_resumably(
    training: Training, split: Split, results: Results, overwrite: bool, own: dict[str, str]
) -> None:
    """Train to the end; after a stop the same command goes on behind the last whole epoch.

    own : what must be the same besides protocol, backbone and images, for that to mean anything.
    """
    from data.run import Run
    from evaluate.linear_training import remove_checkpoints, resume

    identity = {
        "protocol": str(asdict(training.settings)),
        "backbone": training.before,
        **own,
        "image size": training.model.size,
        "images": images_digest(split),
        "--amp": training.amp,
    }
    unfinished = Run(results.folder, checkpoints=UNFINISHED[0])
    resume(unfinished, training, identity, overwrite)

    def after_epoch(training: Training) -> None:
        unfinished.save(len(training.history), {**training.state(), "identity": identity})
        say(_epoch_line(training.history[-1], training.settings.epochs))

    training.run(after_epoch)
    if training.world.first:
        results.afterwards.append(lambda: remove_checkpoints(unfinished))


def _epoch_line(epoch: Epoch, epochs: int) -> str:
    """An epoch in a line."""
    return (
        f"epoch {epoch.epoch + 1}/{epochs}  lr {epoch.lr:g}  loss {epoch.loss:.4f}  "
        f"train {100 * epoch.train_top1:.2f} %  val {100 * epoch.top1:.2f} %"
    )


def plot_history(history: list[Epoch], path: Path, cuts: bool = True) -> None:
    """Draw the accuracies over the epochs, and where the rate is cut."""
    from matplotlib.ticker import MaxNLocator

    epochs = [epoch.epoch + 1 for epoch in history]
    with plot(path, 7, 4) as (axes,):
        axes.plot(epochs, [100 * e.train_top1 for e in history], label="training crops", alpha=0.7)
        axes.plot(epochs, [100 * e.top1 for e in history], label="validation")
        for before, after in pairwise(history):
            if cuts and after.lr != before.lr:
                axes.axvline(after.epoch + 0.5, color="gray", linewidth=0.8, linestyle=":")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        dotted = " (dotted: the rate is cut)" if cuts else ""
        axes.set(xlabel=f"epoch{dotted}", ylabel="top-1 %")
        axes.grid(alpha=0.3)
        axes.legend()

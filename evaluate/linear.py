"""`probe linear`: the linear probe, a linear classifier on frozen features.

The published protocols: DiLo (arXiv 2004.06638, section 5.3) and MoCo (He et al., CVPR 2020,
section 4.1) on ImageNet; Places as in Zhan et al. / DiLo's Table 6.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from data.errors import UserError
from data.options import one_of, setting
from evaluate.labelled import Labelled, Split, open_split
from evaluate.options import FLOAT32_MAX, Count, NetworkOptions, Positive, ResultOptions, Seed
from evaluate.results import (
    Report,
    Results,
    percent,
    refuse_several,
    say,
    several,
    unreadable_notes,
)

if TYPE_CHECKING:
    from evaluate.linear_training import Epoch
    from evaluate.models import Model
    from pretrain.parts.distributed import World

SHARES_WORK = True  # among torchrun's processes
UNFINISHED = ("resume",)  # what a run that was stopped leaves in the folder --out


@dataclass(frozen=True)
class Protocol:
    """How the classifier is trained; the defaults are DiLo's protocol.

    batch_size is over all processes. The learning rate is multiplied by .1 at the start of each
    epoch in `milestones`. `batch_norm` puts a batch norm without parameters before the classifier.
    """

    lr: float = 30.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    epochs: int = 100
    milestones: tuple[int, ...] = (30, 60, 90)
    batch_size: int = 256
    batch_norm: bool = False
    seed: int = 0

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)


PRESETS = {
    "dilo": Protocol(),
    "moco": Protocol(milestones=(60, 80)),
    "places": Protocol(
        lr=0.01,
        nesterov=True,
        weight_decay=1e-4,
        epochs=28,
        milestones=(7, 14, 21),
        batch_norm=True,
    ),
}


def _epochs(text: str) -> tuple[int, ...]:
    epochs = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in epochs):
        raise ValueError("give epochs, from 1 on, as 60,80")
    return tuple(sorted(map(int, epochs)))


class Options(NetworkOptions, ResultOptions):
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
        milestones = self.milestones
        if self.epochs is not None and milestones is None:
            moved = (round(m * self.epochs / preset.epochs) for m in preset.milestones)
            milestones = tuple(sorted({max(1, m) for m in moved}))
        given: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "epochs": self.epochs,
            "milestones": milestones,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }
        return replace(preset, **{key: value for key, value in given.items() if value is not None})


def run(options: Options, results: Results) -> Report | None:
    """Train and validate; None in all of torchrun's processes but the first."""
    if options.fast:
        refuse_several("linear --fast")
        content = _run_fast(options, results)
    elif options.out is None and several():
        raise UserError("--out is needed under torchrun: all processes must agree on one folder.")
    else:
        from pretrain.parts.distributed import world

        _check_gpus(options.device)
        with world(options.device) as processes:
            content = _run_sgd(options, results, processes)
        if content is None:
            return None
    notes = [
        *unreadable_notes(content["unreadable"]),
        f"the backbone is unchanged: sha256 {content['backbone_sha256'][:16]}...",
        content["split"],
    ]
    return Report(content, [_table_row(content)], notes=notes)


def _check_gpus(device: str) -> None:
    """Let every process of a host complain alike where the last has no GPU: the first tells it."""
    from data.device import pick_device

    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    pick_device(device, count - 1, count)


def _run_sgd(options: Options, results: Results, processes: World) -> dict | None:
    """Train by SGD; returns what the JSON says."""
    import torch

    from data.run import Run
    from evaluate.linear_training import LinearProbe, remove_checkpoints, resume
    from evaluate.models import load_models, workers_of

    split, protocol = open_split(options.images), options.protocol()
    (model,) = load_models((options.checkpoint,), options, processes.device)
    workers = workers_of(options)
    probe = LinearProbe(
        model.backbone, split, protocol, processes, model.size, workers, options.amp
    )
    identity = {
        "protocol": str(asdict(protocol)),
        "backbone": probe.before,
        "layer": options.layer,
        "image size": model.size,
        "images": _images_digest(split),
        "--amp": options.amp,
    }
    unfinished = Run(results.folder, checkpoints=UNFINISHED[0])
    resume(unfinished, probe, identity, options.overwrite)

    def after_epoch(probe: LinearProbe) -> None:
        unfinished.save(len(probe.history), {**probe.state(), "identity": identity})
        say(_line(probe.history[-1], protocol.epochs))

    result = probe.run(after_epoch)
    if not processes.first:
        return None
    results.when_written(lambda: remove_checkpoints(unfinished))
    state = {key: value.cpu() for key, value in result.head.state_dict().items()}
    content = {"state_dict": state, "classes": split.train.classes}
    torch.save(content, results.path("classifier.pt"))
    _plot(result.history, results.path("curve.png"))
    return {
        **_common(model, split, options),
        "protocol": {
            "preset": options.preset,
            **asdict(protocol),
            "amp": options.amp,
            "gpus": processes.size,
        },
        "top1": result.history[-1].top1,
        "top5": result.history[-1].top5,
        "best_top1": max(epoch.top1 for epoch in result.history),
        "history": [asdict(epoch) for epoch in result.history],
        "backbone_sha256": result.backbone_sha256,
        "unreadable": result.unreadable,
    }


def _run_fast(options: Options, results: Results) -> dict:
    """Fit a logistic regression; returns what the JSON says."""
    import torch

    from evaluate.checkpoints import digest
    from evaluate.classifiers import HOLDOUT, fit, top_k
    from evaluate.models import load_models

    split = open_split(options.images)
    (model,) = load_models((options.checkpoint,), options)
    before = digest(model.backbone)
    train, train_labels = model.features(split.train, "train")
    val, val_labels = model.features(split.val, "val")
    regression = fit(
        train.features,
        train_labels,
        len(split.train.classes),
        seed=options.seed,
        device=model.device,
    )
    after = digest(model.backbone)
    if after != before:
        raise RuntimeError("the backbone changed while features were taken")
    state = {"weight": regression.weight, "bias": regression.bias}
    content = {"state_dict": state, "classes": split.train.classes}
    torch.save(content, results.path("classifier.pt"))
    logits = regression(val.features)
    return {
        **_common(model, split, options),
        "protocol": {
            "fast": "logistic regression on features of the test crop",
            "c": regression.c,
            "c_tried": {f"{c:g}": accuracy for c, accuracy in regression.tried.items()},
            "c_chosen_on": f"{HOLDOUT:.0%} of the training images",
            "seed": options.seed,
        },
        "top1": top_k(logits, val_labels, 1),
        "top5": top_k(logits, val_labels, 5),
        "backbone_sha256": after,
        "unreadable": train.unreadable | val.unreadable,
    }


def _common(model: Model, split: Split, options: Options) -> dict:
    return {
        **model.describe(),
        "images": options.images,
        "split": split.how,
        "train_images": len(split.train),
        "test_images": len(split.val),
        "classes": len(split.train.classes),
        "batch_size": options.batch_size,
    }


def _images_digest(split: Split) -> str:
    sha = hashlib.sha256()
    for part in (split.train, split.val):
        sha.update("\n".join(_with_labels(part)).encode("utf-8", "surrogateescape"))
    return sha.hexdigest()[:16]


def _with_labels(images: Labelled) -> Iterator[str]:
    return (f"{key}\t{label}" for key, label in zip(images.keys, images.labels, strict=True))


def _line(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch + 1}/{epochs}  lr {epoch.lr:g}  loss {epoch.loss:.4f}  "
        f"train {100 * epoch.train_top1:.2f} %  val {100 * epoch.top1:.2f} %"
    )


def _plot(history: list[Epoch], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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


def _table_row(content: dict) -> dict[str, str]:
    protocol = content["protocol"]
    return {
        "checkpoint": content["label"],
        "layer": content["layer"],
        "size": content["image_size"],
        "protocol": f"fast, C {protocol['c']:g}"
        if "fast" in protocol
        else f"{protocol['preset']}, {protocol['epochs']} epochs, lr {protocol['lr']:g}",
        "top-1 %": percent(content["top1"]),
        "top-5 %": percent(content["top5"]),
        "train": content["train_images"],
        "test": content["test_images"],
    }

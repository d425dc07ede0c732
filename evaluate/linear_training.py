"""SGD on class folders: the linear probe on a frozen backbone, and fine-tuning of the whole."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from tqdm import tqdm

from data.device import to_host
from data.errors import UserError
from data.images.crop import crop_resize, reduction_for, snap_box
from data.images.decode import open_image
from data.images.labels import Labelled
from data.loading import Batch, EpochBatches, Loader, Request, seeded_order, unreadable_of
from data.options import option_name
from data.run import Run, checkpoints
from evaluate.checkpoints import digest
from evaluate.classifiers import top_k
from evaluate.intervals import accuracy
from evaluate.labelled import Split
from evaluate.masks import Masks
from evaluate.models import Model
from evaluate.options import NetworkOptions
from evaluate.pooling import LabelledImages, View
from evaluate.protocols import UNFINISHED, Protocol
from evaluate.results import Results, none_readable, percent, say
from pretrain.parts.distributed import World

RATIO = (3 / 4, 4 / 3)  # of a crop: width / height


def random_crop(path: str, size: int, scale: tuple[float, float] = (0.08, 1.0)) -> View:
    """RandomResizedCrop and flip of an image file.

    The draws are torchvision's, from torch's generator, and so are the pixels: uint8 (size, size,
    3). Only a JPEG much larger than its crop is reduced while it is decoded, which moves the crop's
    borders by less than a pixel of it. Raises `UnreadableImage`.

    scale : range of a crop's share of the image's area.
    """
    image = open_image(path)
    of_this_size = torch.empty((3, *image.size), device="meta")
    box = RandomResizedCrop.get_params(of_this_size, list(scale), list(RATIO))
    pixels, reduction = image.decode(reduction_for([box], size))
    if reduction > 1:
        box = snap_box(box, reduction, image.size)
    crop = crop_resize(pixels, tuple(side // reduction for side in box), size)
    mirrored = torch.rand(1).item() < 0.5
    return crop[:, ::-1] if mirrored else crop, image.size, box, mirrored


class TrainingImages(LabelledImages):
    """Random crops; `dataset[Request(epoch, indices)]` is a batch as `PlainDataset` makes it.

    A crop is drawn from (seed, epoch, index) alone, so that it depends neither on the number of
    workers nor on where a run was resumed.

    masks : of the images; None: batches hold no masks.
    """

    def __init__(self, images: Labelled, size: int, settings: Protocol, masks: Masks | None = None):
        super().__init__(images, size, masks)
        self.settings = settings

    def __getitem__(self, request: Request) -> Batch:
        """Return the batch of these images in this epoch."""

        def view(index: int, path: str) -> View:
            key = (self.settings.seed, request.epoch, index)
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            return random_crop(path, self.image_size, self.settings.scale)

        with torch.random.fork_rng(devices=[]):
            return self.load_views(request.indices, view)


def new_head(dim: int, classes: int, settings: Protocol) -> nn.Sequential:
    """The classifier: (B, D) -> (B, C). Weights N(0, .01), bias 0."""
    norm = nn.BatchNorm1d(dim, affine=False) if settings.batch_norm else nn.Identity()
    fc = nn.Linear(dim, classes)
    nn.init.normal_(fc.weight, std=0.01, generator=torch.Generator().manual_seed(settings.seed))
    nn.init.zeros_(fc.bias)
    return nn.Sequential(OrderedDict(norm=norm, fc=fc))


@dataclass
class Epoch:
    """What one epoch gave: mean training loss and accuracy, validation accuracies in [0, 1]."""

    epoch: int
    lr: float
    loss: float
    train_top1: float
    top1: float
    top5: float | None


class Training:
    """Trains and validates; `state` and `restore` make it resumable after any epoch.

    settings : its batch size is over all processes
    whole : train the backbone, too, batch norm's statistics included; else the classifier alone, on
        a backbone in eval mode, which `run` proves unchanged
    before : the backbone's digest
    trained : modules that learn, by their names in a state
    history : the epochs that are done; unreadable : images that were left out, key -> reason
    predicted : of the last epoch, the class of each validation image, and its own, int64 (N,)
    """

    def __init__(
        self,
        model: Model,
        split: Split,
        settings: Protocol,
        world: World,
        amp: bool = False,
        whole: bool = False,
    ):
        if settings.batch_size % world.size:
            raise UserError(
                f"--batch-size {settings.batch_size} is over all processes and must be a multiple "
                f"of their number, {world.size}."
            )
        self.model, self.split, self.settings = model, split, settings
        self.world, self.amp, self.whole = world, amp, whole
        self.backbone = model.backbone.to(world.device, memory_format=torch.channels_last)
        self.before = digest(self.backbone)
        masks = model.pool and model.pool.of(split.train)
        images = TrainingImages(split.train, model.size, settings, masks)
        share, count = settings.batch_size // world.size, len(split.train)
        self.batches = EpochBatches(
            seeded_order(settings.seed, count),
            count,
            share,
            rank=world.rank,
            world_size=world.size,
            whole=False,
        )
        workers, pin = model.options.loading_workers, world.device.type == "cuda"
        self.train_loader = Loader(images, self.batches, workers, pin_memory=pin, keep_workers=True)
        self.val_loader = model.batches(split.val, most=share)
        self.head = new_head(self.backbone.dim(model.size), len(split.train.classes), settings).to(
            world.device
        )
        backbone = {"backbone": self.backbone.requires_grad_(True)} if whole else {}
        self.trained: dict[str, nn.Module] = {**backbone, "head": self.head}
        self.optimizer = torch.optim.SGD(
            [weight for module in self.trained.values() for weight in module.parameters()],
            settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
        self.history: list[Epoch] = []
        self.unreadable: dict[str, str] = {}
        self.predicted: tuple[Tensor, Tensor] | None = None

    def features(self, batch: Batch) -> Tensor:
        """A batch through the backbone: float32 (B, D), with gradients where it is trained."""
        autocast = torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.amp)
        with torch.set_grad_enabled(self.whole and torch.is_grad_enabled()), autocast:
            return self.model.features_of(batch).float()

    def run(self, after_epoch: Callable[[Training], None] | None = None) -> None:
        """Train the epochs that are not in the history yet."""
        model: nn.Module = self.head
        several = self.world.size > 1 and self.world.device.type == "cuda"
        if self.settings.batch_norm and several:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = self.world.parallel(model)
        for epoch in range(len(self.history), self.settings.epochs):
            lr = self.settings.rate(epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, train_top1 = self._train(model, epoch)
            top1, top5 = self._validate()
            self.history.append(Epoch(epoch, lr, loss, train_top1, top1, top5))
            if after_epoch is not None and self.world.first:
                after_epoch(self)
        if self.predicted is None:  # stopped after the last epoch, before its results were written
            self._validate()
        if not self.whole and digest(self.backbone) != self.before:
            raise RuntimeError("the backbone changed while the classifier was trained")

    def _set_training(self, training: bool) -> None:
        for module in self.trained.values():
            module.train(training)

    def _train(self, model: nn.Module, epoch: int) -> tuple[float, float]:
        self._set_training(True)
        self.batches.epoch = epoch
        batch_norm = self.settings.batch_norm or self.whole
        device, count = self.world.device, 0
        exact = torch.float32 if device.type == "mps" else torch.float64  # which MPS has not
        sums = torch.zeros(2, device=device, dtype=exact)  # read at the epoch's end only
        for batch in self._bar(self.train_loader, f"epoch {epoch + 1}"):
            self.unreadable |= unreadable_of(batch)
            target = batch["label"].to(device, non_blocking=True)
            if len(target) < 2 and batch_norm and self.world.size == 1:
                continue  # batch norm has no statistics of a single image
            if len(target):
                logits = model(self.features(batch))
            else:  # every image of this process was unreadable, and the others wait for it
                logits = model(torch.zeros(0, self.head.fc.in_features, device=device))
            loss = F.cross_entropy(logits, target, reduction="sum") / max(len(target), 1)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            hits = (logits.argmax(1) == target).sum()
            sums += torch.stack([loss.detach() * len(target), hits])
            count += len(target)
        sums = torch.cat([sums, sums.new_tensor([count])])
        if self.world.size > 1:
            torch.distributed.all_reduce(sums)
        loss, hits, count = sums.tolist()
        self.unreadable = dict(self.world.gather(list(self.unreadable.items())))
        if not count:
            raise none_readable(self.unreadable)
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is not finite in epoch {epoch + 1} at --lr {self.settings.lr:g}; these "
                "features need a smaller one."
            )
        return loss / count, hits / count

    def _validate(self) -> tuple[float, float | None]:
        """Top-1 and top-5 over the validation images; every process does all of it alike."""
        self._set_training(False)
        labels = []

        def computed() -> Iterator[Tensor]:
            for batch in self._bar(self.val_loader, "validate"):
                self.unreadable |= unreadable_of(batch)
                if len(batch["index"]):
                    labels.append(batch["label"])
                    yield self.head(self.features(batch))

        with torch.no_grad():
            scores = list(to_host(computed()))
        if not scores:
            raise none_readable(self.unreadable)
        logits, target = torch.cat(scores), torch.cat(labels)
        self.predicted = logits.argmax(1), target
        return top_k(logits, target, 1), top_k(logits, target, 5)

    def _bar(self, loader: Iterable, description: str):
        hidden = None if self.world.first else True
        return tqdm(loader, desc=description, unit="batch", leave=False, disable=hidden)

    def state(self) -> dict:
        """All that the next epoch depends on, for `restore`."""
        return {
            **{name: module.state_dict() for name, module in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "unreadable": dict(self.unreadable),
        }

    def restore(self, state: dict) -> None:
        """Continue after the last epoch of a state."""
        for name, module in self.trained.items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.unreadable = dict(state["unreadable"])

    def outcome(self) -> dict:
        """What a result says of model and epochs; `top1` and `top5` are the last one's."""
        last = self.history[-1]
        return {
            **self.model.describe(),
            **accuracy(last.top1, len(self.split.val)).named("top1"),
            "top5": last.top5,
            "best_top1": max(epoch.top1 for epoch in self.history),
            "history": [asdict(epoch) for epoch in self.history],
            "unreadable": self.unreadable,
        }


# ---- a run that can be stopped -------------------------------------------------------------------


def train_to_end(training: Training, results: Results, options: NetworkOptions) -> None:
    """Train; after a stop the same command goes on behind the last whole epoch."""
    own = options.model_dump(mode="json", include={"layer", "pool", "masks", "amp"})
    identity = {  # what must be the same for a continuation to mean anything
        "protocol": str(asdict(training.settings)),
        "backbone": training.before,
        "image size": training.model.size,
        "images": training.split.digest(),
        **{option_name(name): value for name, value in own.items()},
    }
    run = Run(results.folder, checkpoints=f"{UNFINISHED}/{training.before[:12]}")
    resume(run, training, identity, options.overwrite)

    def after_epoch(training: Training) -> None:
        run.save(len(training.history), {**training.state(), "identity": identity})
        epoch = training.history[-1]
        say(
            f"epoch {epoch.epoch + 1}/{training.settings.epochs}  lr {epoch.lr:g}  "
            f"loss {epoch.loss:.4f}  train {percent(epoch.train_top1)} %  "
            f"val {percent(epoch.top1)} %"
        )

    training.run(after_epoch)
    training.world.any(False)  # all wait for the last state: the next network may be the same
    training.train_loader.close()
    if training.world.first:
        results.afterwards.append(lambda: remove_checkpoints(run))


def resume(run: Run, training: Training, identity: dict[str, Any], overwrite: bool) -> None:
    """Restore the newest checkpoint of an unfinished run, if there is one.

    identity : another run's checkpoints are refused; or removed, with `overwrite`.
    """
    newest = run.newest(("identity", *training.state()), say)
    if newest is None:
        return
    if overwrite and newest.state["identity"] != identity:
        remove_checkpoints(run)
        return
    run.check_same(newest.state["identity"], identity)
    training.restore(newest.state)
    say(f"Continuing after epoch {newest.step} of {training.settings.epochs}.")


def remove_checkpoints(run: Run) -> None:
    """Remove the checkpoints of a finished run; nothing else that lies there."""
    for _, path in checkpoints(run.checkpoints):
        path.unlink(missing_ok=True)
    for folder in (run.checkpoints, run.checkpoints.parent):
        if folder != run.folder:
            with contextlib.suppress(OSError):  # it holds something else, or is not there
                folder.rmdir()

"""The linear probe: a linear classifier trained by SGD on a frozen backbone's features."""

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
from torch.nn.parallel import DistributedDataParallel
from torchvision.transforms import RandomResizedCrop
from tqdm import tqdm

from data.device import to_host
from data.errors import UserError
from data.images.crop import crop_resize, reduction_for, snap_box
from data.images.decode import open_image
from data.loading import (
    Batch,
    EpochBatches,
    Loader,
    PlainDataset,
    Request,
    normalise,
    seeded_order,
    unreadable_of,
)
from data.run import Run, checkpoints
from evaluate.checkpoints import digest
from evaluate.classifiers import top_k
from evaluate.labelled import Labelled, Split
from evaluate.models import Model
from evaluate.protocols import Protocol
from evaluate.results import none_readable, say
from pretrain.parts.distributed import World

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a crop: share of the image's area, width / height


def random_crop(path: str, size: int) -> np.ndarray:
    """RandomResizedCrop(.08, 1) and flip of an image file, as linear probes are trained.

    The draws are torchvision's, from torch's generator, and so are the pixels: uint8 (size, size,
    3). Only a JPEG much larger than its crop is reduced while it is decoded, which moves the crop's
    borders by less than a pixel of it. Raises `UnreadableImage`.
    """
    image = open_image(path)
    of_this_size = torch.empty((3, *image.size), device="meta")
    box = RandomResizedCrop.get_params(of_this_size, list(SCALE), list(RATIO))
    pixels, reduction = image.decode(reduction_for([box], size))
    if reduction > 1:
        box = tuple(side // reduction for side in snap_box(box, reduction, image.size))
    crop = crop_resize(pixels, box, size)
    return crop[:, ::-1] if torch.rand(1).item() < 0.5 else crop


class TrainingImages(PlainDataset):
    """Random crops; `dataset[Request(epoch, indices)]` is a batch as `PlainDataset` makes it.

    A crop is drawn from (seed, epoch, index) alone, so that it depends neither on the number of
    workers nor on where a run was resumed.
    """

    def __init__(self, images: Labelled, size: int, seed: int):
        super().__init__(images.root, images.keys, size, images.labels)
        self.seed = seed

    def __getitem__(self, request: Request) -> Batch:
        """Return the batch of these images in this epoch."""

        def read(index: int, path: str) -> np.ndarray:
            state = np.random.SeedSequence((self.seed, request.epoch, index)).generate_state(1)
            torch.manual_seed(int(state[0]))
            return random_crop(path, self.image_size)

        with torch.random.fork_rng(devices=[]):
            return self.load(request.indices, read)


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


class LinearProbe:
    """Trains and validates; `state` and `restore` make it resumable after any epoch.

    before : the backbone's digest; `run` proves that it did not change
    history : the epochs that are done; unreadable : images that were left out, key -> reason
    """

    def __init__(
        self, model: Model, split: Split, settings: Protocol, world: World, amp: bool = False
    ):
        if settings.batch_size % world.size:
            raise UserError(
                f"--batch-size {settings.batch_size} is over all processes and must be a multiple "
                f"of their number, {world.size}."
            )
        self.backbone, self.settings = model.backbone.to(world.device), settings
        self.world, self.amp = world, amp
        self.before = digest(self.backbone)
        images = TrainingImages(split.train, model.size, settings.seed)
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
        self.optimizer = torch.optim.SGD(
            self.head.parameters(),
            settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
        self.history: list[Epoch] = []
        self.unreadable: dict[str, str] = {}

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> float32 (B, D), without gradient."""
        images = normalise(images.to(self.world.device, non_blocking=True))
        kind = self.world.device.type
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=self.amp):
            return self.backbone(images).float()

    def run(self, after_epoch: Callable[[LinearProbe], None] | None = None) -> None:
        """Train the epochs that are not in the history yet."""
        model: nn.Module = self.head
        if self.world.size > 1:
            if self.settings.batch_norm and self.world.device.type == "cuda":
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            model = DistributedDataParallel(model)
        for epoch in range(len(self.history), self.settings.epochs):
            lr = self.settings.rate(epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, train_top1 = self._train(model, epoch)
            top1, top5 = self._validate()
            self.history.append(Epoch(epoch, lr, loss, train_top1, top1, top5))
            if after_epoch is not None and self.world.first:
                after_epoch(self)
        if digest(self.backbone) != self.before:
            raise RuntimeError("the backbone changed while the classifier was trained")

    def _train(self, model: nn.Module, epoch: int) -> tuple[float, float]:
        model.train()
        self.batches.epoch = epoch
        device, count = self.world.device, 0
        sums = torch.zeros(2, device=device, dtype=torch.float64)  # read at the epoch's end only
        for batch in self._bar(self.train_loader, f"epoch {epoch + 1}"):
            self.unreadable |= unreadable_of(batch)
            target = batch["label"].to(device, non_blocking=True)
            if len(target) < 2 and self.settings.batch_norm and self.world.size == 1:
                continue  # batch norm has no statistics of a single image
            if len(target):
                logits = model(self.features(batch["image"]))
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
        self.head.eval()
        labels = []

        def computed() -> Iterator[Tensor]:
            for batch in self._bar(self.val_loader, "validate"):
                self.unreadable |= unreadable_of(batch)
                if len(batch["index"]):
                    labels.append(batch["label"])
                    yield self.head(self.features(batch["image"]))

        with torch.no_grad():
            scores = list(to_host(computed()))
        if not scores:
            raise none_readable(self.unreadable)
        logits, target = torch.cat(scores), torch.cat(labels)
        return top_k(logits, target, 1), top_k(logits, target, 5)

    def _bar(self, loader: Iterable, description: str):
        hidden = None if self.world.first else True
        return tqdm(loader, desc=description, unit="batch", leave=False, disable=hidden)

    def state(self) -> dict:
        """All that the next epoch depends on, for `restore`."""
        return {
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "unreadable": dict(self.unreadable),
        }

    def restore(self, state: dict) -> None:
        """Continue after the last epoch of a state."""
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.unreadable = dict(state["unreadable"])


def resume(run: Run, probe: LinearProbe, identity: dict[str, Any], overwrite: bool) -> None:
    """Restore the newest checkpoint of an unfinished run, if there is one.

    identity : what must be the same for a continuation to mean anything: protocol, backbone,
        images. Another run's checkpoints are refused; or removed, with `overwrite`.
    """
    newest = run.newest(("identity", *probe.state()), say)
    if newest is None:
        return
    if overwrite and newest.state["identity"] != identity:
        remove_checkpoints(run)
        return
    run.check_same(newest.state["identity"], identity)
    probe.restore(newest.state)
    say(f"Continuing after epoch {newest.step} of {probe.settings.epochs}.")


def remove_checkpoints(run: Run) -> None:
    """Remove the checkpoints of a finished run; nothing else that lies there."""
    for _, path in checkpoints(run.checkpoints):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds something else, or is not there
        run.checkpoints.rmdir()

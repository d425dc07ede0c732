"""Fine-tuning of a detector: SGD with warm-up, exact resume, batch norm over all processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from data.device import all_finite, computing_in, tune_cuda
from data.errors import RunFailed, UserError
from data.loading import EpochBatches, Loader, seeded_order
from data.metrics import Metrics
from data.processes import StopRequest, stop_on_signals
from data.run import Run, failures_told
from data.schedule import learning_rate
from evaluate.detection.annotated import Annotated
from evaluate.detection.dataset import Example, TrainingImages, on_device, trainable
from evaluate.detection.settings import Settings
from evaluate.results import say
from pretrain.parts.distributed import World, mean_over_processes

SAVE_EVERY = 300  # seconds
FLUSH_EVERY = 20  # steps; reading a loss waits for the device
WARMUP_FROM = 1e-3
_STATE = ("model", "optimizer")


def rate_of(settings: Settings, step: int) -> float:
    """Return the rate of a step from 0 on: linear warm-up, a tenth from each milestone on."""
    s, share = settings, 1.0
    if step < s.warmup_steps:
        share = WARMUP_FROM + (1 - WARMUP_FROM) * step / s.warmup_steps
    return share * learning_rate(
        step, 1, base=s.lr, epochs=s.steps, schedule="step", milestones=s.milestones
    )


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.SGD:
    """Return SGD with momentum, without weight decay on batch norms."""
    modules = list(model.modules())
    norms = [p for m in modules if isinstance(m, _BatchNorm) for p in m.parameters()]
    others = [p for m in modules if not isinstance(m, _BatchNorm) for p in m.parameters(False)]
    groups = [{"params": others}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )


@torch.no_grad()
def measure_norms(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> None:
    """Set batch norms' means and variances to averages over the batches' own (Wu & Johnson 2021).

    With several processes, to the averages over all of theirs; nothing else of the model changes.

    forward : puts a batch through the model, in training mode
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before, training = [norm.momentum for norm in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
    model.train()
    for batch in batches:
        forward(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(mean_over_processes(statistic))
    model.train(training)


class Trainer:
    """Trains a detector into the folder of a run; `step` steps of it are done.

    precision : to autocast to; None is float32
    workers : processes that load images
    """

    def __init__(
        self,
        model: nn.Module,
        images: Annotated,
        settings: Settings,
        seed: int,
        run: Run,
        here: World,
        precision: torch.dtype | None,
        workers: int,
    ) -> None:
        self.settings, self.seed, self.run, self.here = settings, seed, run, here
        self.precision, self.step = precision, 0
        images = trainable(images)
        count, share = len(images), settings.images_per_step // here.size
        if settings.images_per_step % here.size or settings.images_per_step > count:
            raise UserError(
                f"the setting images_per_step is {settings.images_per_step}; it is over all "
                f"processes, must be a multiple of their number, {here.size}, and at most the "
                f"{count} images with objects."
            )
        tune_cuda()
        torch.backends.cudnn.benchmark = False  # images are of many sizes
        if here.size > 1 and here.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(here.device)
        self.optimizer = build_optimizer(model, settings)
        self.batches = EpochBatches(
            seeded_order(seed, count), count, share, rank=here.rank, world_size=here.size
        )
        data = TrainingImages(images, settings, seed)
        pin = here.device.type == "cuda"
        self.loader = Loader(data, self.batches, workers, pin_memory=pin, keep_workers=True)

    def resume(self) -> None:
        """Continue from the newest sound checkpoint, where there is one."""
        newest = self.run.newest(_STATE, say)
        if newest is not None:
            self.model.load_state_dict(newest.state["model"])
            self.optimizer.load_state_dict(newest.state["optimizer"])
            self.step = newest.step
            say(f"{self.run.folder}: continuing after step {self.step} of {self.settings.steps}.")

    def train(self, title: str) -> StopRequest:
        """Train to the end, or until a signal asks to stop; saves now and then, and at the end.

        title : of the progress bar
        """
        s, here, run = self.settings, self.here, self.run
        model = here.parallel(self.model).train()
        path = run.path("metrics.jsonl") if here.first else None
        log = Metrics(path, None, self.step, s.images_per_step, mean_over_processes, self._diverged)
        bar = tqdm(total=s.steps, initial=self.step, desc=title, unit="step", leave=False,
                   disable=None if here.first else True)  # fmt: skip
        smaller = "use a smaller images_per_step, regions or test_side by --set"
        with stop_on_signals() as stop, failures_told(run, smaller), closing(log), bar:
            saved = time.monotonic()
            for epoch, batch in log.timed(self._from(self.step, s.steps)):
                lr, losses = self._train_on(model, batch)
                self.step += 1
                log.add(self.step, epoch, sum(losses.values()), lr=lr, **losses)
                bar.update()
                stopping = here.any(bool(stop))[0]
                late = time.monotonic() - saved > SAVE_EVERY
                if self.step % FLUSH_EVERY == 0 or self.step == s.steps or stopping or late:
                    log.flush()
                    bar.set_postfix(loss=f"{log.mean_loss:.3f}")
                if late or stopping or self.step == s.steps:
                    self._save()
                    saved = time.monotonic()
                if stopping:
                    break
        return stop

    def _save(self) -> None:
        if not all_finite(self.model.parameters()):
            raise self._diverged(f"weights are not finite after step {self.step}")
        if self.here.first:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            self.run.save(self.step, state)

    def _diverged(self, what: str) -> RunFailed:
        return RunFailed(
            f"{what} of {self.run.folder}; {self.run.last_good()}; a lower rate than "
            f"{self.settings.lr:g} (--set lr=...) in another --out may help."
        )

    def _from(self, first: int, last: int) -> Iterator[tuple[int, list[Example]]]:
        """Yield the batches of steps, with their epochs."""
        steps = self.batches.steps
        for epoch in range(first // steps, math.ceil(last / steps)):
            self.batches.epoch, self.batches.start = epoch, max(0, first - epoch * steps)
            for number, batch in enumerate(self.loader, start=epoch * steps + self.batches.start):
                if number >= last:
                    return
                yield epoch, batch

    def _losses(self, model: nn.Module, batch: list[Example], step: int) -> dict[str, Tensor]:
        """Losses of a batch; which anchors and regions are drawn follows from seed and step."""
        device = self.here.device
        state = np.random.SeedSequence((self.seed, step, self.here.rank)).generate_state(1)
        torch.manual_seed(int(state[0]))
        images = [on_device(image, device) for image, _ in batch]
        targets = [
            {name: value.to(device, non_blocking=True) for name, value in target.items()}
            for _, target in batch
        ]
        with computing_in(self.precision, device):
            return model(images, targets)

    def _train_on(self, model: nn.Module, batch: list[Example]) -> tuple[float, dict[str, Tensor]]:
        lr = rate_of(self.settings, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses = self._losses(model, batch, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with computing_in(None, self.here.device):  # backward keeps to the dtypes of forward
            sum(losses.values()).backward()
        self.optimizer.step()
        return lr, {name: loss.detach() for name, loss in losses.items()}

    def measure_norms(self) -> None:
        """Measure batch norms' statistics over the batches that would come next."""
        steps, count = self.settings.steps, self.settings.precise_bn
        if count:
            batches = enumerate((batch for _, batch in self._from(steps, steps + count)), steps)
            measure_norms(
                self.model, batches, lambda item: self._losses(self.model, item[1], item[0])
            )

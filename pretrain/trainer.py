"""The training loop.

Everything random follows from the seed and the step: views from (seed, epoch, image, view),
negatives and shuffles from (seed, step), dropout from (seed, step, rank). So a checkpoint needs no
generator's state, and a run that is resumed has the same losses as one that was never stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from tqdm import tqdm

from data.device import all_finite, tune_cuda
from data.errors import RunFailed, UserError
from data.images.labels import splits_of
from data.images.listing import OddEndings, list_images
from data.metrics import Metrics, epoch_bar, read_metrics
from data.processes import StopRequest, stop_on_signals, usable_cores
from data.run import Run, failures_told
from data.schedule import learning_rate
from pretrain.build import (
    build_method,
    build_optimizer,
    check_sizes,
    in_bfloat16,
    introduction,
    title,
)
from pretrain.export import export_backbone
from pretrain.methods import load_method
from pretrain.online_knn import build_online_knn
from pretrain.parts.distributed import World, mean_over_processes, world
from pretrain.parts.negatives import stream_key
from pretrain.pictures import SIDE, draw_curve, views_gallery
from pretrain.settings import FREE_ON_RESUME, Settings, build_settings
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import Remarks, build_loader

DRAW_EVERY = 20  # seconds between pictures of the loss
_STATE = ("keys", "method", "optimizer")  # what a checkpoint needs to be resumed from


@dataclass(frozen=True)
class Outcome:
    """How a run ended: done, or stopped by a signal (Ctrl-C if `interrupted`)."""

    done: bool
    interrupted: bool = False


def train(settings: Settings, out: str | os.PathLike, *, resume: bool = False) -> Outcome:
    """Train, from the start or from the newest sound checkpoint in `out`.

    settings : of the run.
    out : the run's folder; see `data.run.Run`.
    resume : continue where `out` stopped, if there is anything.
    """
    run = Run(out)
    run.check(resume, inputs=[settings.images])
    if resume and run.started():
        run.check_same(build_settings(run.saved()), settings, FREE_ON_RESUME)
    with (
        world(settings.device) as here,
        stop_on_signals() as stop,
        failures_told(
            run,
            f"batch_size is {settings.batch_size}; give a smaller one, or compute it in parts by "
            "accumulate = 2",
        ),
        run.locked(here.first),
    ):
        training = _Training(settings, run, here)
        try:
            training.begin(resume)
            return training.loop(stop)
        finally:
            training.close()


class _Training:
    """This process's part of a run. step : how many are done. steps : of an epoch."""

    def __init__(self, s: Settings, run: Run, here: World) -> None:
        self.settings, self.run, self.here = s, run, here
        odd = OddEndings()
        self.keys = list_images(s.images, odd)
        for sentence in odd.told():
            self.say(sentence)
        self.sizes = check_sizes(s, len(self.keys), here.size)
        self.workers = s.workers
        if s.workers is None:
            self.workers = max(1, usable_cores() // here.local_size)
        self.wants = load_method(s.method.name).wanted(s.method)
        self.loader = build_loader(
            s.images,
            s.masks,
            recipe=s.view_recipe(),
            paste=s.paste_settings(),
            saliency=bool(self.wants & {"saliency", "boxes"}),
            negative="negative" in self.wants,
            batch_size=s.batch_size // here.size,
            seed=s.seed,
            rank=here.rank,
            world_size=here.size,
            workers=self.workers,
            allow_missing_masks=s.allow_missing_masks,
            pin_memory=here.device.type == "cuda",
            keys=self.keys,
            decode_on=here.device if s.decode == "device" else None,
        )
        self.pastes = self.loader.describe_pastes()
        self.augment = DeviceAugment(s.view_recipe()).to(here.device)
        self.knn = build_online_knn(s, self.keys, self.workers)
        tune_cuda()
        self.method = build_method(s, self.sizes, here)
        self.optimizer = build_optimizer(s, self.method)
        self.model: torch.nn.Module = self.method
        self.groups = self.sizes.groups * here.size * s.accumulate  # of a batch
        self.bfloat16 = in_bfloat16(s, here.device)
        self.steps = len(self.loader)
        self.last_step = s.epochs * self.steps
        self.step = 0
        self.log: Metrics | None = None
        self.saved_at, self.drawn_at = time.monotonic(), -math.inf

    def say(self, sentence: str) -> None:
        if self.here.first:
            tqdm.write(sentence)

    def close(self) -> None:
        self.loader.close()
        if self.log is not None:
            self.log.close()

    # ---- the beginning ----

    def begin(self, resume: bool) -> None:
        """Start the run's folder, or load its newest checkpoint."""
        s, run, here = self.settings, self.run, self.here
        newest = run.newest(_STATE, self.say) if resume else None
        if newest is not None:
            self._load(newest.step, newest.state)
        elif resume:
            self._check_unsaved()
        if here.first:
            run.start(s)
            if newest is not None:
                newest.set_aside()
        paths = (run.path(name) for name in ("metrics.jsonl", "tensorboard"))
        metrics, board = paths if here.first else (None, None)
        self.log = Metrics(
            metrics, board, self.step, s.batch_size, mean_over_processes, self._diverged
        )
        if s.compile:
            for network in self.method.networks():
                network.compile()
            if here.device.type == "cuda":
                self.augment.compile()
        self.model = here.parallel(self.method)  # it keeps banks and queues equal by itself
        for sentence in introduction(s, self.sizes, here, self.loader, self.workers, self.step):
            self.say(sentence)
        if self.knn is not None:
            self.say(f"Every {s.knn_every} epochs: {self.knn.describe()}.")
        if splits := splits_of(self.keys):
            self.say(
                f"{s.images!r} holds {' and '.join(splits)}, and all of them are trained on; give "
                "the first of them where the others are to judge by."
            )

    def _load(self, step: int, state: dict) -> None:
        if state["keys"] != self.keys.digest():
            raise UserError(
                f"{self.settings.images!r} does not hold the images that the run in "
                f"{str(self.run.folder)!r} was begun with; resume it with those, or start another."
            )
        self._compare_pastes(state.get("pastes", {}))
        had = state.get("bn_groups", self.groups)
        if had != self.groups:
            self.say(
                f"The run had {had} batch-norm groups, and now has {self.groups}; "
                "its losses will not be those of a run that was never stopped."
            )
        self.step = step
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _compare_pastes(self, had: dict) -> None:
        """Refuse masks by another method than the run was begun with; tell of other content."""
        now = self.pastes
        changed = [name for name in had if name in now and had[name] != now[name]]
        if "masks" in changed:
            raise UserError(
                f"the masks in {self.settings.masks!r} are {now['masks']}, and the run in "
                f"{str(self.run.folder)!r} was begun with masks {had['masks']}; resume it with "
                "those, or start another."
            )
        if changed:
            self.say(
                f"The run was begun with other {' and '.join(changed)}; "
                "its losses will not be those of a run that was never stopped."
            )

    def _check_unsaved(self) -> None:
        """Say that a run without a checkpoint starts again; refuse where its checkpoints are gone.

        There is a checkpoint at the end of every epoch.
        """
        lines = read_metrics(self.run.path("metrics.jsonl"))
        done = max((line["step"] for line in lines), default=0)
        if done > self.steps:
            raise UserError(
                f"the run in {str(self.run.folder)!r} came to step {done}, and "
                f"{str(self.run.checkpoints)!r} holds no checkpoint any more; put them back, or "
                "start another run in a new folder."
            )
        if done:
            self.say(f"The run came to step {done} without a checkpoint; it starts again.")

    # ---- the loop ----

    def loop(self, stop: StopRequest) -> Outcome:
        s, here, log = self.settings, self.here, self.log
        if self._knn_due() and not log.holds("knn", self.step):  # else it was, before a stop
            done = self.step // self.steps
            when = f"after epoch {done}" if done else "before training"
            self.say(f"{when}: {self._measure_knn(max(0, done - 1))}")
        for epoch in range(self.step // self.steps, s.epochs):
            self.loader.set_epoch(epoch, self.step % self.steps)
            log.begin_epoch()
            remarks = Remarks()
            bar = epoch_bar(epoch, s.epochs, self.steps, self.step % self.steps, here.first)
            for batch in log.timed(self.loader):
                remarks.add(batch)
                lr = self._set_learning_rate()
                values = self._train_on(batch)
                self.step += 1
                log.add(self.step, epoch, lr=lr, **values)
                bar.update()

                minutes = (time.monotonic() - self.saved_at) / 60
                stopping, due = here.any(bool(stop), 0 < s.checkpoint_every_minutes <= minutes)
                every = s.checkpoint_every_steps
                due |= every > 0 and self.step % every == 0
                at_end = self.step % self.steps == 0
                if self.step % s.log_every == 0 or at_end or due or stopping:
                    log.flush()
                    bar.set_postfix(loss=f"{log.mean_loss:.3f}")
                if (due or stopping) and not at_end:
                    self._save()
                if stopping and not at_end:
                    bar.close()
                    return self._stopped(stop)
            bar.close()
            if self._end_epoch(epoch, lr, remarks, stop):
                return self._stopped(stop)
        if here.first:
            backbone, curve, views = map(self.run.path, ("backbone.pt", "curve.png", "views.png"))
            export_backbone(self.method.backbone, s, backbone, self.method.detector())
            self.say(f"Done. Weights: {backbone}; curve: {curve}; what the network saw: {views}.")
        return Outcome(done=True)

    def _set_learning_rate(self) -> float:
        s = self.settings
        lr = learning_rate(
            self.step,
            self.steps,
            base=s.scaled_lr(),
            epochs=s.epochs,
            schedule=s.schedule,
            milestones=s.milestones,
            decay=s.lr_decay,
            warmup_epochs=s.warmup_epochs,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _train_on(self, batch: dict) -> dict[str, torch.Tensor]:
        """Do a step; return the loss and what the method logs besides, scalars on the device."""
        s, here = self.settings, self.here
        torch.manual_seed(stream_key(s.seed, self.step, here.rank))  # dropout's
        batch = {
            name: value.to(here.device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.items()
        }
        pictures = self.run.path("views.png")
        if here.first and not pictures.exists():
            gallery = views_gallery(batch, self.augment, s.images, self.keys)
            gallery.save_png(pictures, side=SIDE)
        count = len(batch["index"])
        rows = here.rank * count + torch.arange(count, device=here.device)
        with torch.no_grad():
            views = self.augment.views(batch, rows, self.wants)
            if not s.channels_last:
                views.images[:] = [view.contiguous() for view in views.images]

        # forward and backward, in `accumulate` parts of the batch
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=here.device))
        for number, part in enumerate(views.chunk(s.accumulate), start=1):
            # processes exchange gradients once, after the last part
            silent = here.size > 1 and number < s.accumulate
            with self.model.no_sync() if silent else nullcontext():
                with torch.autocast(here.device.type, torch.bfloat16, enabled=self.bfloat16):
                    loss, logged = self.model(part, self.step)
                (loss / s.accumulate).backward()
            for name, value in {"loss": loss, **logged}.items():
                sums[name] += value.detach() / s.accumulate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.update()
        return dict(sums)

    # ---- what happens now and then ----

    def _end_epoch(self, epoch: int, lr: float, remarks: Remarks, stop: StopRequest) -> bool:
        """Save, measure, report and draw; return whether to stop."""
        s, here, log = self.settings, self.here, self.log
        step_seconds, waited = log.epoch_speed()
        sentences = remarks.tell(here.gather, log, {"step": self.step, "epoch": epoch})
        log.save()
        self._save()
        stopping = self.step < self.last_step and here.any(bool(stop))[0]
        report = f"epoch {epoch + 1}/{s.epochs}: loss {log.mean_loss:.4f}"
        if self._knn_due() and not stopping:
            report += f", {self._measure_knn(epoch)}"
        left = tqdm.format_interval((self.last_step - self.step) * step_seconds)
        starved = f" ({waited:.0%} of the time waiting for images)" if waited > 0.05 else ""
        rate = s.batch_size / step_seconds
        self.say(f"{report}, lr {lr:g}, {rate:.0f} images/s{starved}, {left} left")
        for sentence in sentences:
            self.say(f"  {sentence}")
        if here.first:
            log.save()
            # Not after each of many short epochs: it would take as long as they.
            late = time.monotonic() - self.drawn_at > DRAW_EVERY
            if self.step == self.last_step or stopping or late:
                chance = self.method.chance_loss(s, self.sizes.images)
                metrics, curve = map(self.run.path, ("metrics.jsonl", "curve.png"))
                draw_curve(metrics, curve, title(s), chance)
                self.drawn_at = time.monotonic()
        return stopping

    def _save(self) -> None:
        began = time.monotonic()
        if not all_finite(self.method.parameters()):  # the loss was, before the last update
            raise self._diverged(f"weights are not finite any more after step {self.step}")
        if self.here.first:
            state = {
                "step": self.step,
                "keys": self.keys.digest(),
                "pastes": self.pastes,
                "bn_groups": self.groups,
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            self.run.save(self.step, state, self.settings.keep_checkpoints)
        self.saved_at = time.monotonic()
        self.log.leave_out(self.saved_at - began)

    def _diverged(self, what: str) -> RunFailed:
        return RunFailed(
            f"{what}; {self.run.last_good()}; "
            f"a lower lr (now {self.settings.lr:g}) or a warm-up may help."
        )

    def _knn_due(self) -> bool:
        """Whether the first process is to measure the kNN now: at the start, at epochs' ends."""
        if self.knn is None or not self.here.first or self.step % self.steps:
            return False
        epochs = self.step // self.steps
        return epochs % self.settings.knn_every == 0 or self.step == self.last_step

    def _measure_knn(self, epoch: int) -> str:
        accuracy = self.knn(self.method.backbone, self.here.device)
        self.log.write({"step": self.step, "epoch": epoch, "knn": accuracy})
        return f"kNN {accuracy:.1%}"

    def _stopped(self, stop: StopRequest) -> Outcome:
        why = "Interrupted" if stop.interrupted else "Asked to stop"
        self.say(
            f"{why} after step {self.step}; all is saved in {self.run.folder}. "
            "Go on with the same and --resume."
        )
        return Outcome(done=False, interrupted=stop.interrupted)

"""The training loop.

Everything random follows from the seed and the step: views from (seed, epoch, image, view),
negatives and shuffles from (seed, step), dropout from (seed, step, rank). So a checkpoint needs no
generator's state, and a run that goes on from it has the same losses as one that was never stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data.device import all_finite, tune_cuda
from data.errors import RunFailed, UserError
from data.images.decode import list_images
from data.metrics import LossNotFinite, Metrics, epoch_bar, read_metrics
from data.processes import usable_cores
from data.run import Run, StopRequest, failures_told, stop_on_signals
from pretrain.build import (
    bn_groups,
    build_method,
    build_optimizer,
    check_network,
    check_sizes,
    in_bfloat16,
)
from pretrain.curve import draw_curve
from pretrain.export import export_backbone
from pretrain.introduction import chance_loss, introduce, title
from pretrain.online_knn import Classify, build_online_knn
from pretrain.parts.distributed import World, mean_over_processes, world
from pretrain.parts.negatives import stream_key
from pretrain.parts.schedule import learning_rate
from pretrain.preview import save_views
from pretrain.settings import FREE_ON_RESUME, Settings, build_settings
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import build_loader

DRAW_EVERY = 20  # seconds between pictures of the loss
_STATE = ("keys", "method", "optimizer")  # what a checkpoint needs to be gone on from


@dataclass(frozen=True)
class Outcome:
    """How a run ended: done, or stopped by a signal (Ctrl-C if `interrupted`)."""

    done: bool
    interrupted: bool = False


def train(
    settings: Settings,
    out: str | os.PathLike,
    *,
    resume: bool = False,
    classify: Classify | None = None,
) -> Outcome:
    """Train, from the start or from the newest sound checkpoint in `out`.

    Parameters
    ----------
    settings : of the run.
    out : the run's folder; see `data.run.Run`.
    resume : go on where `out` stopped, if there is anything.
    classify : kNN classifier of the online figure; None: no figure.
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
    ):
        return _train(settings, run, here, stop, resume, classify)


def _train(
    settings: Settings,
    run: Run,
    here: World,
    stop: StopRequest,
    resume: bool,
    classify: Classify | None,
) -> Outcome:
    def say(sentence: str) -> None:
        if here.first:
            tqdm.write(sentence)

    # ---- data ----
    keys = list_images(settings.images)
    check_sizes(settings, len(keys), here.size)
    check_network(settings, here.size)
    cuda = here.device.type == "cuda"
    workers = settings.workers
    if workers is None:
        workers = max(1, usable_cores() // here.local_size)
    loader = build_loader(
        settings.images,
        settings.masks,
        recipe=settings.view_recipe(),
        paste=settings.paste_settings(),
        batch_size=settings.batch_size // here.size,
        seed=settings.seed,
        rank=here.rank,
        world_size=here.size,
        workers=workers,
        allow_missing_masks=settings.allow_missing_masks,
        pin_memory=cuda,
        keys=keys,
        decode_on=here.device if settings.decode == "device" else None,
    )
    augment = DeviceAugment(settings.view_recipe()).to(here.device)
    knn = build_online_knn(settings, keys, classify, workers)
    steps = len(loader)  # an epoch
    last_step = settings.epochs * steps

    # ---- method, optimiser, and where to begin ----
    tune_cuda()
    method = build_method(settings, len(keys), here)
    optimizer = build_optimizer(settings, method)
    groups = bn_groups(settings, here.size) * here.size * settings.accumulate  # of a batch
    step = 0
    found = run.newest(_STATE, say) if resume else None
    if resume and found is None:
        check_unsaved(run, steps, say)
    if found is not None:
        if found.state["keys"] != keys.digest():
            raise UserError(
                f"{settings.images!r} does not hold the images that the run in "
                f"{str(run.folder)!r} was begun with; resume it with those, or start another run."
            )
        step = found.step
        had = found.state.get("bn_groups", groups)
        if had != groups:
            say(
                f"The run had {had} batch-norm groups, and now has {groups}; "
                "its losses will not be those of a run that was never stopped."
            )
        method.load_state_dict(found.state["method"])
        optimizer.load_state_dict(found.state["optimizer"])
    if here.first:
        run.start(settings)
        if found is not None:
            found.set_aside()
    curve, seen, backbone = (run.path(n) for n in ("curve.png", "views.png", "backbone.pt"))
    log = Metrics(
        run.path("metrics.jsonl") if here.first else None,
        run.path("tensorboard") if here.first else None,
        step,
        settings.batch_size,
        mean_over_processes,
    )
    if settings.compile:
        for encoder in (
            (method.encoder,) if method.views == 1 else (method.encoder_q, method.encoder_k)
        ):
            encoder.compile()
        if cuda:
            augment.compile()
    model: torch.nn.Module = method
    if here.size > 1:
        # Each process keeps its own batch-norm statistics (the first one's are saved), and banks
        # and queues are kept equal by the method itself: no buffer needs to be sent every step.
        model = DistributedDataParallel(
            method, device_ids=[here.device.index] if cuda else None, broadcast_buffers=False
        )
    bfloat16 = in_bfloat16(settings, here.device)
    introduce(settings, here, loader, workers, bfloat16, step, say)
    if knn is not None:
        say(f"Every {settings.knn_every} epochs: {knn.describe()}.")

    # ---- what happens now and then ----
    saved_at = time.monotonic()
    drawn_at = -math.inf

    def flush() -> None:
        try:
            log.flush()
        except LossNotFinite as error:
            raise RunFailed(
                f"the loss of step {error.step} (epoch {error.epoch + 1}) is {error.loss}; "
                f"{run.last_good()}; a lower lr (now {settings.lr:g}) or a warm-up may help."
            ) from None

    def save() -> None:
        nonlocal saved_at
        began = time.monotonic()
        if not all_finite(method.parameters()):  # the loss was, before the last update
            raise RunFailed(
                f"weights are not finite any more after step {step}; {run.last_good()}; "
                f"a lower lr (now {settings.lr:g}) or a warm-up may help."
            )
        if here.first:
            state = {
                "step": step,
                "keys": keys.digest(),
                "bn_groups": groups,
                "method": method.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            run.save(step, state, settings.keep_checkpoints)
        saved_at = time.monotonic()
        log.leave_out(saved_at - began)

    def knn_due() -> bool:
        """Whether the first process is to measure the kNN now: at the start, at epochs' ends."""
        if knn is None or not here.first or step % steps:
            return False
        return step // steps % settings.knn_every == 0 or step == last_step

    def measure_knn(epoch: int) -> str:
        accuracy = knn(method.backbone, here.device)
        log.write({"step": step, "epoch": epoch, "knn": accuracy})
        return f"kNN {accuracy:.1%}"

    try:
        if knn_due() and not log.holds("knn", step):  # else it was, before a run was stopped
            done = step // steps
            when = f"after epoch {done}" if done else "before training"
            say(f"{when}: {measure_knn(max(0, done - 1))}")

        # ---- the loop ----
        for epoch in range(step // steps, settings.epochs):
            loader.set_epoch(epoch, step % steps)
            log.begin_epoch()
            replaced: list[str] = []
            bar = epoch_bar(epoch, settings.epochs, steps, step % steps, here.first)
            for batch in log.timed(loader):
                lr = learning_rate(
                    step,
                    steps,
                    base=settings.scaled_lr(),
                    epochs=settings.epochs,
                    schedule=settings.schedule,
                    milestones=settings.milestones,
                    decay=settings.lr_decay,
                    warmup_epochs=settings.warmup_epochs,
                )
                for group in optimizer.param_groups:
                    group["lr"] = lr
                torch.manual_seed(stream_key(settings.seed, step, here.rank))  # dropout's
                batch = {
                    name: value.to(here.device, non_blocking=True)
                    if isinstance(value, torch.Tensor)
                    else value
                    for name, value in batch.items()
                }
                replaced += batch["replaced_reasons"] + batch["backgrounds_skipped"]
                index = batch["index"]
                rows = here.rank * len(index) + torch.arange(len(index), device=here.device)
                if here.first and not seen.exists():
                    save_views(seen, batch, augment, settings.images, keys)
                with torch.no_grad():
                    views = augment(batch)  # V x (B, 3, S, S)
                if not settings.channels_last:
                    views = [view.contiguous() for view in views]

                # forward and backward, in `accumulate` parts of the batch
                loss_sum, outputs = torch.zeros((), device=here.device), []
                parts = zip(*(view.chunk(settings.accumulate) for view in views), strict=True)
                for number, (part, part_index, part_rows) in enumerate(
                    zip(
                        parts,
                        index.chunk(settings.accumulate),
                        rows.chunk(settings.accumulate),
                        strict=True,
                    ),
                    start=1,
                ):
                    # processes exchange gradients once, after the last part
                    silent = here.size > 1 and number < settings.accumulate
                    with model.no_sync() if silent else nullcontext():
                        with torch.autocast(here.device.type, torch.bfloat16, enabled=bfloat16):
                            loss, output = model(list(part), part_index, step, part_rows)
                        (loss / settings.accumulate).backward()
                    loss_sum += loss.detach() / settings.accumulate
                    outputs.append(output)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                method.update(index, torch.cat(outputs))  # bank, or queue and key encoder
                step += 1
                log.add(step, epoch, loss_sum, lr=lr)
                bar.update()

                minutes = (time.monotonic() - saved_at) / 60
                stopping, due = here.any(
                    bool(stop), 0 < settings.checkpoint_every_minutes <= minutes
                )
                every = settings.checkpoint_every_steps
                due |= every > 0 and step % every == 0
                at_end = step % steps == 0
                if step % settings.log_every == 0 or at_end or due or stopping:
                    flush()
                    bar.set_postfix(loss=f"{log.mean_loss:.3f}")
                if (due or stopping) and not at_end:
                    save()
                if stopping and not at_end:
                    bar.close()
                    return _stopped(stop, run, step, say)
            bar.close()

            # ---- the epoch's end: first of all it is saved ----
            step_seconds, waited = log.epoch_speed()
            replaced = sorted(set(here.gather(replaced)))  # one may be drawn again
            if replaced and here.first:
                line = {"step": step, "epoch": epoch, "replaced": len(replaced)}
                log.write(line | {"reasons": replaced[:10]})
                log.save()
            save()
            stopping = step < last_step and here.any(bool(stop))[0]
            report = f"epoch {epoch + 1}/{settings.epochs}: loss {log.mean_loss:.4f}"
            if knn_due() and not stopping:
                report += f", {measure_knn(epoch)}"
            left = tqdm.format_interval((last_step - step) * step_seconds)
            starved = f" ({waited:.0%} of the time waiting for images)" if waited > 0.05 else ""
            rate = settings.batch_size / step_seconds
            say(f"{report}, lr {lr:g}, {rate:.0f} images/s{starved}, {left} left")
            if replaced:
                say(f"  {len(replaced)} unreadable images were replaced: {_some(replaced)}")
            if here.first:
                log.save()
                # Not after each of many short epochs: it would take as long as they.
                if step == last_step or stopping or time.monotonic() - drawn_at > DRAW_EVERY:
                    chance = chance_loss(settings, len(keys))
                    draw_curve(run.path("metrics.jsonl"), curve, title(settings), chance)
                    drawn_at = time.monotonic()
            if stopping:
                return _stopped(stop, run, step, say)
        if here.first:
            export_backbone(method.backbone, settings, backbone)
            say(f"Done. Weights: {backbone}; curve: {curve}; what the network saw: {seen}.")
        return Outcome(done=True)
    finally:
        loader.close()
        log.close()


def check_unsaved(run: Run, epoch_steps: int, say: Callable[[str], None]) -> None:
    """Say that a run without a checkpoint starts again; refuse where its checkpoints are gone.

    epoch_steps : steps of an epoch, at whose end there is always one.
    """
    done = max((line["step"] for line in read_metrics(run.path("metrics.jsonl"))), default=0)
    if done > epoch_steps:
        raise UserError(
            f"the run in {str(run.folder)!r} came to step {done}, and {str(run.checkpoints)!r} "
            "holds no checkpoint any more; put them back, or start another run in a new folder."
        )
    if done:
        say(f"The run came to step {done} without a checkpoint; it starts again.")


def _stopped(stop: StopRequest, run: Run, step: int, say) -> Outcome:
    why = "Interrupted" if stop.interrupted else "Asked to stop"
    say(f"{why} after step {step}; all is saved in {run.folder}. Go on with the same and --resume.")
    return Outcome(done=False, interrupted=stop.interrupted)


def _some(reasons: list[str]) -> str:
    return "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")

"""The training loop.

Everything random follows from the seed and the step: views from (seed, epoch, image, view),
negatives and shuffles from (seed, step), dropout from (seed, step, rank). So a checkpoint needs no
generator's state, and a run that goes on from it has the same losses as one that was never stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data import checkpoint
from data.errors import UserError
from data.listing import list_images_kept
from data.loading_workers import usable_cores
from pretrain.augment import DeviceAugment
from pretrain.build import (
    bn_groups,
    build_method,
    build_optimizer,
    check_network,
    check_sizes,
)
from pretrain.config import Settings
from pretrain.curve import draw_curve
from pretrain.distributed import World, mean_over_processes, world
from pretrain.export import export_backbone
from pretrain.failures import TrainingFailed, failures_told, last_good
from pretrain.loader import Loader, build_loader
from pretrain.metrics import Metrics
from pretrain.negatives import stream_key
from pretrain.online_knn import Classify, build_online_knn
from pretrain.preview import save_views
from pretrain.run_folder import RunFolder
from pretrain.schedule import learning_rate
from pretrain.stop import StopRequest, stop_on_signals


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
    out : the run's folder; see `RunFolder`.
    resume : go on where `out` stopped, if there is anything.
    classify : kNN classifier of the online figure; None: no figure.
    """
    run = RunFolder(out)
    run.check(resume, settings.images)
    if resume and run.started():
        run.check_same(settings)
    with (
        world(settings.device) as here,
        stop_on_signals() as stop,
        failures_told(run, settings.batch_size, here.device),
    ):
        return _train(settings, run, here, stop, resume, classify)


def _train(
    settings: Settings,
    run: RunFolder,
    here: World,
    stop: StopRequest,
    resume: bool,
    classify: Classify | None,
) -> Outcome:
    def say(sentence: str) -> None:
        if here.first:
            tqdm.write(sentence)

    # ---- data ----
    keys = list_images_kept(settings.images, settings.masks)
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
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32 outside autocast
    method = build_method(settings, len(keys), here)
    optimizer = build_optimizer(settings, method)
    groups = bn_groups(settings, here.size) * here.size * settings.accumulate  # of a batch
    step = 0
    found = checkpoint.load_newest(run.checkpoints) if resume else None
    if found is not None:
        for path, reason in found.damaged:
            say(f"{path} is passed over: {reason}; going on from {found.path.name}.")
        if found.state["keys"] != keys.digest():
            raise UserError(
                f"{settings.images!r} does not hold the images that the run in "
                f"{str(run.path)!r} was begun with; resume it with those, or start another run."
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
        if not run.started():
            run.write_start(settings)
        if found is not None:
            checkpoint.set_aside(found)
    metrics = Metrics(run.metrics, run.tensorboard, step) if here.first else None
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
    bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and cuda)
    introduce(settings, here, loader, workers, bfloat16, step, say)
    if knn is not None:
        say(f"Every {settings.knn_every} epochs: {knn.describe()}.")

    # ---- what happens now and then ----
    pending: list[tuple[int, int, torch.Tensor, float]] = []  # step, epoch, loss, lr: not written
    clock = saved_at = time.monotonic()
    waits: list[float] = []  # seconds that each batch was waited for, since the last flush
    waited = 0.0  # in this epoch

    def flush() -> float:
        """Write the pending lines; return their mean loss. The only wait for the device."""
        nonlocal clock, waited
        losses = mean_over_processes(torch.stack([loss for _, _, loss, _ in pending])).tolist()
        now = time.monotonic()
        seconds = max(now - clock, 1e-9)
        speed = {
            "images_per_second": round(len(pending) * settings.batch_size / seconds, 1),
            "loader_wait": round(sum(waits) / seconds, 3),
        }
        clock = now
        waited += sum(waits)
        waits.clear()
        for (at, epoch, _, lr), loss in zip(pending, losses, strict=True):
            if not math.isfinite(loss):
                raise TrainingFailed(_not_finite(run, settings, at, epoch, loss))
            if metrics is not None:
                line = {"step": at, "epoch": epoch, "loss": loss, "lr": lr}
                metrics.write(line | speed)
        pending.clear()
        if metrics is not None:
            metrics.flush()
        return sum(losses) / len(losses)

    def save() -> None:
        nonlocal clock, saved_at
        began = time.monotonic()
        if not all_finite(method):  # the loss was, before the last update
            raise TrainingFailed(
                f"weights are not finite any more after step {step}; {last_good(run)}; "
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
            checkpoint.save(run.checkpoints, step, state, settings.keep_checkpoints)
        saved_at = time.monotonic()
        clock += saved_at - began  # the rate is that of training alone

    def measure(at: int, epoch: int) -> float:
        """Write the kNN figure after so many steps, and return it."""
        accuracy = knn(method.backbone, here.device)
        metrics.write({"step": at, "epoch": epoch, "knn": accuracy})
        return accuracy

    try:
        if knn is not None and step == 0 and here.first:
            say(f"before training: kNN {measure(0, 0):.1%}")

        # ---- the loop ----
        for epoch in range(step // steps, settings.epochs):
            loader.set_epoch(epoch, step % steps)
            began, first, total, waited = time.monotonic(), step, 0.0, 0.0
            replaced: list[str] = []
            bar = tqdm(
                total=steps,
                initial=step % steps,
                desc=f"epoch {epoch + 1}/{settings.epochs}",
                unit="step",
                disable=None if here.first else True,
                leave=False,
            )
            for batch in _timed(loader, waits):
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
                replaced += batch["replaced_reasons"]
                index = batch["index"]
                rows = here.rank * len(index) + torch.arange(len(index), device=here.device)
                if here.first and not run.views.exists():
                    save_views(run.views, batch, augment, settings.images, keys)
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
                pending.append((step, epoch, loss_sum, lr))
                bar.update()

                minutes = (time.monotonic() - saved_at) / 60
                stopping, due = here.any(
                    bool(stop), 0 < settings.checkpoint_every_minutes <= minutes
                )
                every = settings.checkpoint_every_steps
                due |= every > 0 and step % every == 0
                at_end = step % steps == 0
                if step % settings.log_every == 0 or at_end or due or stopping:
                    count = len(pending)
                    total += count * flush()
                    bar.set_postfix(loss=f"{total / (step - first):.3f}")
                if (due or stopping) and not at_end:
                    save()
                if stopping and not at_end:
                    bar.close()
                    return _stopped(stop, run, step, say)
            bar.close()

            # ---- the epoch's end ----
            seconds = time.monotonic() - began
            report = f"epoch {epoch + 1}/{settings.epochs}: loss {total / (step - first):.4f}"
            last = epoch + 1 == settings.epochs
            if knn is not None and (last or (epoch + 1) % settings.knn_every == 0) and here.first:
                report += f", kNN {measure(step, epoch):.1%}"
            rate = (step - first) * settings.batch_size / seconds
            left = tqdm.format_interval((last_step - step) * seconds / (step - first))
            share = waited / seconds
            starved = f" ({share:.0%} of the time waiting for images)" if share > 0.05 else ""
            say(f"{report}, lr {lr:g}, {rate:.0f} images/s{starved}, {left} left")
            replaced = sorted(set(here.gather(replaced)))  # one may be drawn again
            if replaced:
                say(f"  {len(replaced)} unreadable images were replaced: {_some(replaced)}")
            if here.first:
                if replaced:
                    line = {"step": step, "epoch": epoch, "replaced": len(replaced)}
                    metrics.write(line | {"reasons": replaced[:10]})
                metrics.flush()
                draw_curve(
                    run.metrics, run.curve, _title(settings), chance_loss(settings, len(keys))
                )
            save()
            clock = time.monotonic()
            if not last and here.any(bool(stop))[0]:
                return _stopped(stop, run, step, say)
        if here.first:
            export_backbone(method.backbone, settings, run.backbone)
            say(
                f"Done. Weights: {run.backbone}; curve: {run.curve}; what the network saw: "
                f"{run.views}."
            )
        return Outcome(done=True)
    finally:
        loader.close()
        if metrics is not None:
            metrics.close()


@torch.no_grad()
def all_finite(network: torch.nn.Module) -> bool:
    """Return whether every parameter is finite."""
    sums = [parameter.sum(dtype=torch.float64) for parameter in network.parameters()]
    return bool(torch.stack(sums).isfinite().all())


def _timed(loader: Loader, waits: list[float]) -> Iterator[dict]:
    """Yield the loader's batches; append the seconds that each was waited for."""
    batches = iter(loader)
    while True:
        began = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        waits.append(time.monotonic() - began)
        yield batch


def chance_loss(settings: Settings, images: int) -> float | None:
    """Return the loss of a network that knows nothing: ln(K + 1); ln N for the whole bank."""
    if settings.loss == "nce":
        return None
    return math.log(images if settings.negatives == "all" else settings.negatives + 1)


def introduce(
    settings: Settings,
    here: World,
    loader: Loader,
    workers: int,
    bfloat16: bool,
    step: int,
    say,
) -> None:
    """Say what is about to happen, with everything that was decided for the user."""
    s, images = settings, len(loader.keys)
    say(
        f"{s.method}, {s.arch}, {images} images of {s.image_size} px: {s.epochs} epochs of "
        f"{len(loader)} steps of {s.batch_size} on {here.size} x {here.device.type} "
        f"({'bfloat16' if bfloat16 else 'float32'}), {workers} loading processes."
    )
    if s.lr_batch != "fixed":
        say(
            f"Learning rate {s.scaled_lr():g} = {s.lr:g} x {s.batch_size} / {s.lr_batch} "
            "(linear scaling), weight decay on every parameter."
        )
    if s.method == "moco":
        groups = bn_groups(s, here.size) * here.size
        say(
            f"Keys are shuffled over {groups} batch-norm groups of "
            f"{s.batch_size // s.accumulate // groups} images."
        )
    masks = loader.masks
    if masks is not None:
        flat = f"; {masks.flat} masks are empty" if masks.flat else ""
        say(f"Pasting with probability {s.paste_probability:g} on {s.background}{flat}.")
        if masks.missing:
            say(f"Used unpasted: {masks.complaint(s.images, s.masks)}.")
    chance = chance_loss(s, images)
    if chance is not None:
        say(f"A loss of {chance:.2f} is that of a network that knows nothing.")
    if step:
        say(f"Going on after step {step} of {s.epochs * len(loader)}.")


def _stopped(stop: StopRequest, run: RunFolder, step: int, say) -> Outcome:
    why = "Interrupted" if stop.interrupted else "Asked to stop"
    say(f"{why} after step {step}; all is saved in {run.path}. Go on with the same and --resume.")
    return Outcome(done=False, interrupted=stop.interrupted)


def _not_finite(run: RunFolder, settings: Settings, step: int, epoch: int, loss: float) -> str:
    return (
        f"the loss of step {step} (epoch {epoch + 1}) is {loss}; {last_good(run)}; "
        f"a lower lr (now {settings.lr:g}) or a warm-up may help."
    )


def _some(reasons: list[str]) -> str:
    return "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")


def _title(settings: Settings) -> str:
    paste = f"paste {settings.paste_probability:g}" if settings.paste_probability else "no pasting"
    return f"{settings.method}, {settings.arch}, {paste}, {Path(settings.images).name}"

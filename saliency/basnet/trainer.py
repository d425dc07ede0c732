"""The training loop of BASNet: Adam on the hybrid loss, exact resume, validation, best model."""

import hashlib
import math
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from data.device import all_finite, as_current, computing_in, memory_layout, tune_cuda
from data.errors import UserError
from data.loading import EpochBatches, Loader, seeded_order
from data.metrics import Metrics, epoch_bar, read_metrics
from data.processes import StopRequest, stop_on_signals
from data.run import Run, failures_told, write_torch
from data.schedule import learning_rate
from saliency.basnet.dataset import Pair, TrainingPairs
from saliency.basnet.loss import hybrid_loss, robust_loss
from saliency.basnet.network import BASNet
from saliency.basnet.predict import Predictor
from saliency.basnet.selftaught import SETTLED, Labels, SelfTaught
from saliency.basnet.settings import Settings
from saliency.basnet.validation import plot_history, plot_predictions, validate

_SHOWN = 8  # photographs in a sheet of predictions
_VALIDATION_BATCH = 16
_LOG_EVERY = 10  # steps; reading a loss waits for the GPU, which meanwhile gets no further step
_STATE = ("names", "network", "optimizer", "best")  # of a checkpoint


class Trainer:
    """Trains a BASNet into the folder of a run.

    The folder gets the checkpoints and records of `data.run.Run`, `metrics.jsonl`, `last.pth` and
    `best.pth` (plain state_dicts, for `saliency-compute`), `curves.png` and
    `predictions/epoch-*.png`.

    pairs, validation : to train on and to score; the second may be empty.
    precision : autocast to bfloat16; None trains in float32, without TF32.
    workers : processes that decode and resize.
    taught : the labels of a training without ground truth, whose `best.pth` is the last whole
        round's, whatever the validation says.
    step : steps since the start of the run.
    best : the largest max F of the validations, or -inf.
    """

    def __init__(
        self,
        network: BASNet,
        pairs: list[Pair],
        validation: list[Pair],
        run: Run,
        settings: Settings,
        device: torch.device,
        precision: torch.dtype | None = None,
        workers: int = 0,
        compiled: bool = False,
        taught: SelfTaught | None = None,
    ) -> None:
        self.taught, self.settled = taught, False
        self.loss = hybrid_loss if taught is None else robust_loss
        self.labels: Labels | None = None
        self.pairs, self.validation = pairs, validation
        self.run, self.settings = run, settings
        self.device, self.precision, self.workers = device, precision, workers
        self.layout = memory_layout(device)
        self.network = network.to(device, memory_format=self.layout)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        self.forward = torch.compile(network.logits) if compiled else network.logits
        self.steps = len(pairs) // settings.batch_size  # of an epoch
        if self.steps == 0:
            raise UserError(
                f"--batch-size {settings.batch_size} is more than the {len(pairs)} photographs to "
                "train on; use a smaller one."
            )
        names = "\0".join(pair.name for pair in pairs)
        self.names = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
        self.step = 0
        self.best = -math.inf

    @property
    def done(self) -> bool:
        return self.settled or self.step >= self.settings.epochs * self.steps

    def resume(self) -> bool:
        """Continue from the newest sound checkpoint of the run; False when it has none.

        UserError: the run was begun with other photographs.
        """
        newest = self.run.newest(_STATE)
        if newest is None:
            return False
        if newest.state["names"] != self.names:
            raise UserError(
                f"--resume: the photographs are not those that {self.run.folder} was trained on; "
                "give the same folders, or another --out."
            )
        newest.set_aside()
        self.network.load_state_dict(newest.state["network"])
        self.optimizer.load_state_dict(newest.state["optimizer"])
        self.step, self.best = newest.step, newest.state["best"]
        return True

    def train(self) -> StopRequest:
        """Train to the end, or until a signal asks to stop; saves after every epoch, and then.

        Raises UserError or RunFailed: the loss or the weights are not finite, a pair cannot be
        read, the memory is too small for the batch, a worker was killed.
        """
        tune_cuda()
        path, size = self.run.path("metrics.jsonl"), self.settings.batch_size
        with (
            stop_on_signals() as stop,
            failures_told(self.run, f"use a smaller --batch-size than {size}"),
            self.run.locked(),
            as_current(self.device),  # where batches are pinned for
            closing(Metrics(path, None, self.step, size, diverged=self._ruined)) as log,
        ):
            self.run.start(self.settings)
            while not self.done and not stop:
                if self.taught and not self._learn_labels(log, stop):
                    break
                self._epoch(log, stop)
                state = {
                    "names": self.names,
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "best": self.best,
                }
                self.run.save(self.step, state)
        return stop

    def _learn_labels(self, log: Metrics, stop: StopRequest) -> bool:
        """Make what the epoch's labels need; False where training ends: settled, or a signal."""
        epoch, begun = divmod(self.step, self.steps)
        number, within = divmod(epoch, self.settings.round_epochs)
        try:
            if epoch == 0:
                self.taught.prepare()
            elif begun == 0:
                self.taught.look(epoch, self._write_weights("last.pth"))
        except KeyboardInterrupt as interruption:
            stop.number = (*interruption.args, signal.SIGINT)[0]
            return False
        if self.labels is None or within == begun == 0:
            self.labels = self.taught.labels(number)
        if number and within == begun == 0:
            change = self.taught.change(number)
            self.settled = change < SETTLED
            if not log.holds("change", self.step):
                log.write({"step": self.step, "epoch": epoch, "round": number, "change": change})
            click.echo(f"round {number} changed its labels by {change:.4f}")
        return not self.settled

    def _epoch(self, log: Metrics, stop: StopRequest) -> None:
        """Train the rest of the current epoch, or until a signal."""
        epoch, begun = divmod(self.step, self.steps)
        self.network.train()
        log.begin_epoch()
        bar = epoch_bar(epoch, self.settings.epochs, self.steps, begun)
        with bar:
            for inputs, target in log.timed(self._loader(epoch, begun)):
                lr = self._learning_rate()
                loss = self._train_step(inputs, target, lr)
                self.step += 1
                log.add(self.step, epoch, loss, lr=lr)
                bar.update()
                if self.step % _LOG_EVERY == 0:
                    log.flush()
                    bar.set_postfix(loss=f"{log.mean_loss:.3f}")
                if stop:
                    break
        log.flush()  # before anything is made of the weights
        if not all_finite(self.network.state_dict().values()):  # the loss was, before this step
            raise self._ruined(f"the weights are not finite after step {self.step}")
        if self.step % self.steps == 0:
            self._end_epoch(epoch, log)

    def _loader(self, epoch: int, begun: int) -> Loader:
        s, count = self.settings, len(self.pairs)
        pairs = TrainingPairs(self.pairs, s.resize, s.crop, s.seed, self.labels)
        # whole batches: batch norm dislikes a last batch of a single image
        batches = EpochBatches(seeded_order(s.seed, count), count, s.batch_size)
        batches.epoch, batches.start = epoch, begun
        return Loader(pairs, batches, self.workers, pin_memory=self.device.type == "cuda")

    def _train_step(self, inputs: torch.Tensor, target: torch.Tensor, lr: float) -> torch.Tensor:
        """Take a step of Adam on a batch, without waiting for it; the loss, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        inputs = inputs.to(self.device, non_blocking=True, memory_format=self.layout)
        target = target.to(self.device, non_blocking=True)
        with computing_in(self.precision, self.device):
            logits = self.forward(inputs)
        with computing_in(None, self.device):  # backward keeps to the dtypes of forward
            loss = self.loss(logits, target)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _learning_rate(self) -> float:
        s, of_round = self.settings, self.settings.round_epochs * self.steps
        return learning_rate(
            self.step % of_round, 1, base=s.lr, epochs=of_round, schedule=s.schedule, milestones=()
        )

    def _ruined(self, what: str) -> UserError:
        return UserError(
            f"{what}; {self.run.last_good()}; start again in another --out with a smaller --lr "
            f"than {self.settings.lr}, or check the photographs."
        )

    def _end_epoch(self, epoch: int, log: Metrics) -> None:
        """Validate where it is due, and report."""
        rate = self.settings.batch_size / log.epoch_speed()[0]
        path = self.run.path("metrics.jsonl")
        losses = [m["loss"] for m in read_metrics(path) if m["epoch"] == epoch and "loss" in m]
        row: dict[str, Any] = {
            "step": self.step,
            "epoch": epoch,
            "epoch_loss": float(np.mean(losses)),
        }
        if self.done or (epoch + 1) % self.settings.validate_every == 0:
            row |= self._validate(epoch)
        if self.taught and (epoch + 1) % self.settings.round_epochs == 0:
            self._write_weights("best.pth")
        log.write(row)
        log.save()
        text = f"epoch {epoch + 1:4d}  loss {row['epoch_loss']:.4f}"
        if "max_f" in row:
            text += f"  max F {row['max_f']:.4f}  MAE {row['mae']:.4f}"
        click.echo(f"{text}  {rate:.1f} images/s")
        history = [
            {**m, "epoch": m["epoch"] + 1, "loss": m["epoch_loss"]}
            for m in read_metrics(path)
            if "epoch_loss" in m
        ]
        plot_history(history, self.run.path("curves.png"))

    def _validate(self, epoch: int) -> dict[str, float]:
        """Draw some predictions, keep the last and the best model; return the scores, if any."""
        predictor = Predictor(self.network, self.device, self.precision, _VALIDATION_BATCH)
        size, scores = self.settings.resize, {}
        shown = self.validation or self.pairs
        chosen = np.linspace(0, len(shown) - 1, min(_SHOWN, len(shown))).astype(int)
        sheet = self.run.path("predictions") / f"epoch-{epoch + 1:04d}.png"
        plot_predictions(predictor, [shown[i] for i in chosen], size, sheet)
        if self.validation:
            curve, error = validate(predictor, self.validation, size, self.workers)
            scores = {"max_f": curve.max_f, "mae": error}
            if curve.max_f > self.best:
                self.best = curve.max_f
                if self.taught is None:
                    self._write_weights("best.pth")
        self._write_weights("last.pth")
        return scores

    def _write_weights(self, name: str) -> Path:
        """Write the network's state_dict into the run's folder; its path."""
        state = self.network.state_dict()
        weights = {key: value.cpu().contiguous() for key, value in state.items()}
        write_torch(self.run.path(name), weights)
        return self.run.path(name)

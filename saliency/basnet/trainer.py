"""The training loop of BASNet: Adam on the hybrid loss, exact resume, validation, best model."""

import csv
import math
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.device import (
    all_finite,
    as_current,
    computing_in,
    fastest_convolutions,
    memory_for,
    memory_layout,
)
from data.errors import UserError
from data.run import load_newest, save, write_torch
from saliency.basnet.dataset import EpochBatches, Pair, TrainingPairs
from saliency.basnet.loss import hybrid_loss
from saliency.basnet.network import BASNet
from saliency.basnet.pictures import plot_history, plot_predictions
from saliency.basnet.predict import Predictor
from saliency.basnet.settings import Settings
from saliency.basnet.validation import validate
from saliency.loading import WorkerLoader

_SHOWN = 8  # photographs in a sheet of predictions
_VALIDATION_BATCH = 16
_STEPS_UNREAD = 10  # reading a loss waits for the GPU, which meanwhile gets no further step


class Trainer:
    """Train a BASNet into a folder.

    The folder gets `checkpoint-*.pt` (two of them, for resuming), `last.pth` and `best.pth` (plain
    state_dicts, for `saliency-compute`), `history.csv`, `curves.png`, `settings.json` and
    `predictions/epoch-*.png`.

    Parameters
    ----------
    network : BASNet
    pairs, validation : list of Pair
        Photographs to train on and to score; the second may be empty.
    out : Path
    settings : Settings
    device : torch.device
    precision : torch.dtype or None
        Autocast to bfloat16; None trains in float32, without TF32.
    workers : int
        Processes that decode and resize.
    compiled : bool
    """

    def __init__(
        self,
        network: BASNet,
        pairs: list[Pair],
        validation: list[Pair],
        out: Path,
        settings: Settings,
        device: torch.device,
        precision: torch.dtype | None = None,
        workers: int = 0,
        compiled: bool = False,
    ) -> None:
        self.pairs, self.validation = pairs, validation
        self.out, self.settings = out, settings
        self.device, self.precision, self.workers = device, precision, workers
        self.layout = memory_layout(device)
        with memory_for(settings.batch_size, device):
            self.network = network.to(device, memory_format=self.layout)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        self.forward = torch.compile(network.logits) if compiled else network.logits
        self.steps_per_epoch = len(pairs) // settings.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"--batch-size {settings.batch_size} is more than the {len(pairs)} photographs to "
                "train on; use a smaller one."
            )
        self.step = 0  # since the start of the run
        self.loss_sum = 0.0  # of the epoch's steps so far
        self.unread: list[torch.Tensor] = []  # the last steps' losses, not in the sum yet
        self.history: list[dict] = []
        self.best = -math.inf
        self.stop_signal: int | None = None

    def resume(self) -> bool:
        """Continue from the newest sound checkpoint of the folder; False when it has none."""
        found = load_newest(self.out, holding=self._state())
        if found is None:
            return False
        for path, reason in found.damaged:
            print(f"{path.name} is not used: {reason}", file=sys.stderr)
        state = found.state
        self.settings.check_resume(Settings.from_dict(state["settings"]), self.out)
        found.set_aside()
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.loss_sum = state["step"], state["loss_sum"]
        self.history, self.best = state["history"], state["best"]
        return True

    def save(self) -> None:
        """Write a checkpoint from which `resume` continues exactly.

        Raises
        ------
        UserError
            A loss was not finite, or the weights are not; or the disk is full.
        """
        self._check()
        save(self.out, self.step, self._state())

    def _state(self) -> dict[str, object]:
        return {
            "settings": asdict(self.settings),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": self.history,
            "best": self.best,
        }

    def run(self) -> bool:
        """Train to the end; False when a signal stopped it, after saving.

        Raises
        ------
        UserError
            The loss or the weights are not finite, a pair cannot be read, the memory is too small
            for the batch, a worker was killed, or the folder cannot be made.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self.settings.save(self.out / "settings.json")
        before = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            with as_current(self.device):  # where batches are pinned for
                while self.step < self.settings.epochs * self.steps_per_epoch:
                    finished = self._epoch()
                    self.save()
                    if not finished:
                        return False
            return True
        except (OSError, RuntimeError) as error:
            error.add_note("go on by the same command with --resume")
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def stopped_by_terminate(self) -> bool:
        """Whether SIGTERM, a scheduler's signal, stopped the run, and not Ctrl-C."""
        return self.stop_signal == signal.SIGTERM

    def _remember(self, number: int, frame: object) -> None:
        self.stop_signal = number

    def _epoch(self) -> bool:
        """The rest of the current epoch; False when a signal came."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        started, first = time.monotonic(), done
        self.network.train()
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=done,
            desc=f"epoch {epoch + 1}/{self.settings.epochs}",
            unit="step",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        with bar, fastest_convolutions(self.device):
            for inputs, target in self._loader(epoch, done):
                self.unread.append(self._train_step(inputs, target))
                self.step += 1
                done += 1
                bar.update()
                if len(self.unread) == _STEPS_UNREAD:
                    bar.set_postfix(loss=f"{self._read_losses():.3f}")
                if self.stop_signal is not None:
                    break
            self._check()  # before anything is made of the weights
        if done < self.steps_per_epoch:
            return False
        images = (done - first) * self.settings.batch_size
        row = {
            "epoch": epoch + 1,
            "loss": self.loss_sum / self.steps_per_epoch,
            "max_f": None,
            "mae": None,
            "images_per_second": images / (time.monotonic() - started),
        }
        self.loss_sum = 0.0
        last = epoch + 1 == self.settings.epochs
        if last or (epoch + 1) % self.settings.validate_every == 0:
            self._validate(row)
        self.history.append(row)
        self._report(row)
        return self.stop_signal is None

    def _loader(self, epoch: int, done: int) -> DataLoader:
        s = self.settings
        return WorkerLoader(
            TrainingPairs(self.pairs, s.resize, s.crop, s.seed),
            self.workers,
            batch_sampler=EpochBatches(len(self.pairs), s.batch_size, s.seed, epoch, done),
            pin_memory=self.device.type == "cuda",
        )

    def _train_step(self, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One step of Adam on a batch, without waiting for it; the loss, on the device."""
        lr = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with memory_for(self.settings.batch_size, self.device):
            inputs = inputs.to(self.device, non_blocking=True, memory_format=self.layout)
            target = target.to(self.device, non_blocking=True)
            with computing_in(self.precision, self.device):
                logits = self.forward(inputs)
            with computing_in(None, self.device):  # backward keeps to the dtypes of forward
                loss = hybrid_loss(logits, target)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            self.optimizer.step()
        return loss.detach()

    def _read_losses(self) -> float | None:
        """Add the unread losses to the sum, in order, and return the last; waits for the device.

        Raises
        ------
        UserError
            One is not finite. It stays unread, so that the weights since then are never saved.
        """
        if not self.unread:
            return None
        with memory_for(self.settings.batch_size, self.device):
            values = torch.stack(self.unread).tolist()
        for step, value in enumerate(values, self.step - len(values) + 1):
            if not math.isfinite(value):
                raise UserError(
                    f"the loss is {value} at step {step}; start again in another --out with a "
                    f"smaller --lr than {self.settings.lr}, or check the photographs."
                )
        self.unread.clear()
        for value in values:
            self.loss_sum += value
        return values[-1]

    def _check(self) -> None:
        """Refuse weights that are ruined. A finite loss tells only of those before its step."""
        self._read_losses()
        if not all_finite(self.network.state_dict().values()):
            raise UserError(
                f"the weights are not finite after step {self.step}; start again in another --out "
                f"with a smaller --lr than {self.settings.lr}, or check the photographs."
            )

    def _learning_rate(self) -> float:
        if self.settings.schedule == "constant":
            return self.settings.lr
        progress = self.step / (self.settings.epochs * self.steps_per_epoch)
        return self.settings.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def _validate(self, row: dict) -> None:
        """Score the validation pairs into `row`, keep the best model, draw some predictions."""
        predictor = Predictor(self.network, self.device, self.precision, _VALIDATION_BATCH)
        size = self.settings.resize
        shown = self.validation or self.pairs
        chosen = np.linspace(0, len(shown) - 1, min(_SHOWN, len(shown))).astype(int)
        sheet = self.out / "predictions" / f"epoch-{row['epoch']:04d}.png"
        plot_predictions(predictor, [shown[i] for i in chosen], size, sheet)
        if self.validation:
            scores = validate(predictor, self.validation, size, self.workers)
            row |= {"max_f": scores.max_f, "mae": scores.mae}
            if scores.max_f > self.best:
                self.best = scores.max_f
                write_torch(self.out / "best.pth", self._weights())
        write_torch(self.out / "last.pth", self._weights())

    def _weights(self) -> dict[str, torch.Tensor]:
        return {key: value.cpu().contiguous() for key, value in self.network.state_dict().items()}

    def _report(self, row: dict) -> None:
        text = f"epoch {row['epoch']:4d}  loss {row['loss']:.4f}"
        if row["max_f"] is not None:
            text += f"  max F {row['max_f']:.4f}  MAE {row['mae']:.4f}"
        print(f"{text}  {row['images_per_second']:.1f} images/s", flush=True)
        with open(self.out / "history.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(self.history)
        plot_history(self.history, self.out / "curves.png")

"""The numbers of a run: metrics.jsonl and TensorBoard, without a line twice after a resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from data.errors import RunFailed
from data.files import write_whole

if TYPE_CHECKING:
    import torch


class Metrics:
    """Writes JSON objects, one a line, to metrics.jsonl, and their numbers to TensorBoard.

    Lines of single steps are held back until `flush`, because reading a loss means waiting for the
    device.

    path, tensorboard : the file and the folder; None in all processes but the first.
    step : steps that are done; lines beyond them, of a run that was killed, are dropped, and all
        of them at 0.
    batch_size : images a step, over all processes.
    mean : over processes, of a tensor; every process calls it.
    diverged : makes the error of a loss that is not finite, of a clause that says which.
    """

    def __init__(
        self,
        path: Path | None,
        tensorboard: Path | None = None,
        step: int = 0,
        batch_size: int = 1,
        mean: Callable[[torch.Tensor], torch.Tensor] = lambda losses: losses,
        diverged: Callable[[str], Exception] = RunFailed,
    ) -> None:
        self._path, self._batch_size, self._mean, self._diverged = path, batch_size, mean, diverged
        self._file = self._board = None
        if path is not None:
            if path.is_file():
                kept = [line for line in read_metrics(path) if line["step"] <= step and step > 0]
                write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (for the whole run)
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(tensorboard), purge_step=step + 1)
        self._held: list[dict[str, Any]] = []
        self._waits: list[float] = []  # seconds that each of them waited for its batch
        self.begin_epoch()

    # ---- lines ----

    def write(self, line: dict[str, int | float | str | list[str]]) -> None:
        """Add a line; its numbers go to TensorBoard, at its `step`."""
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, line["step"])

    def holds(self, name: str, step: int) -> bool:
        """Return whether a line of that step that was written before has a value of this name."""
        return any(line["step"] == step and name in line for line in read_metrics(self._path))

    def save(self) -> None:
        """Bring what was written to the files."""
        for target in (self._file, self._board):
            if target is not None:
                target.flush()

    def close(self) -> None:
        for target in (self._file, self._board):
            if target is not None:
                target.close()

    # ---- steps ----

    def begin_epoch(self) -> None:
        """Start the clock, and the sums that an epoch's line on the terminal is made of."""
        self._clock = self._began = time.monotonic()
        self._count = 0
        self._loss_sum = self._waited = 0.0

    def timed(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield the loader's batches, and note how long each was waited for."""
        batches = iter(loader)
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self._waits.append(time.monotonic() - began)
            yield batch

    def add(self, step: int, epoch: int, loss: torch.Tensor, **values: Any) -> None:
        """Note a step that is done.

        step : how many steps are done.
        loss : scalar, on the device.
        values : that the line has besides; numbers, or scalar tensors on the device.
        """
        self._held.append({"step": step, "epoch": epoch, "loss": loss, **values})

    def flush(self) -> None:
        """Write what was held back, each step with the rate of them all. Every process must.

        Raises what `diverged` makes; the lines before that step are written.
        """
        import torch

        if not self._held:
            return
        lines = self._held
        names = [name for name, value in lines[0].items() if isinstance(value, torch.Tensor)]
        values = torch.stack([line[name].detach().float() for line in lines for name in names])
        numbers = iter(self._mean(values).tolist())  # the only wait for the device
        now = time.monotonic()
        seconds = max(now - self._clock, 1e-9)
        speed = {
            "images_per_second": round(len(lines) * self._batch_size / seconds, 1),
            "loader_wait": round(sum(self._waits) / seconds, 3),
        }
        self._clock = now
        for line in lines:
            line |= {name: next(numbers) for name in names}
            if not math.isfinite(line["loss"]):
                where = f"step {line['step']} (epoch {line['epoch'] + 1})"
                raise self._diverged(f"the loss of {where} is {line['loss']}")
            self.write(line | speed)
            self._loss_sum += line["loss"]
        self.save()
        self._count += len(lines)
        self._waited += sum(self._waits)
        self._held.clear()
        self._waits.clear()

    def leave_out(self, seconds: float) -> None:
        """Leave time that was not spent on training (a checkpoint's, say) out of the rates."""
        self._clock += seconds
        self._began += seconds

    @property
    def mean_loss(self) -> float:
        """Of the epoch's steps that were flushed."""
        return self._loss_sum / max(self._count, 1)

    def epoch_speed(self) -> tuple[float, float]:
        """Return the epoch's seconds a step so far, and the share of them spent on waiting."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return seconds / max(self._count, 1), self._waited / seconds


def read_metrics(path: Path | None) -> list[dict]:
    """Return the lines of a metrics.jsonl; a last one that a crash cut short is left out."""
    lines: list[dict] = []
    if path is not None and path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def epoch_bar(epoch: int, epochs: int, steps: int, done: int = 0, show: bool = True) -> tqdm:
    """Return the progress bar of an epoch, quiet where the output is no terminal.

    epoch : counted from 0. steps, done : of the epoch.
    """
    return tqdm(
        total=steps,
        initial=done,
        desc=f"epoch {epoch + 1}/{epochs}",
        unit="step",
        disable=None if show else True,
        leave=False,
    )

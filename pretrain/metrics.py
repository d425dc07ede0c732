"""The numbers of a run: metrics.jsonl and TensorBoard, without a line twice after a resume."""

from __future__ import annotations

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pretrain.run_folder import write_text


class Metrics:
    """Appends JSON objects, one a line, to metrics.jsonl, and numbers to TensorBoard.

    Parameters
    ----------
    path, tensorboard : the file and the folder.
    step : steps that are done; lines beyond them, of a run that was killed, are dropped.
    """

    def __init__(self, path: Path, tensorboard: Path, step: int) -> None:
        keep_until(path, step)
        self._path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open for the whole run)
        self._board = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, line: dict[str, int | float | str | list[str]]) -> None:
        """Add a line; its numbers go to TensorBoard, at its `step`."""
        self._file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, line["step"])

    def holds(self, name: str, step: int) -> bool:
        """Whether a line of that step that was written before has a value of this name."""
        return any(line["step"] == step and name in line for line in read_metrics(self._path))

    def flush(self) -> None:
        """Bring what was written to the files."""
        self._file.flush()
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict]:
    """Return the lines of a metrics.jsonl; a last one that a crash cut short is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl beyond a step; all of them for step 0, the start."""
    if path.is_file():
        kept = [line for line in read_metrics(path) if line["step"] <= step and step > 0]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

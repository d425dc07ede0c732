"""Tiny runs of the trainer, in this process and by the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from pretrain import trainer
from pretrain.methods import load_method
from pretrain.settings import Settings, build_settings

REPOSITORY = Path(__file__).resolve().parents[2]

TINY = {
    "arch": "resnet18",
    "image_size": 32,
    "batch_size": 4,
    "epochs": 2,
    "lr_batch": "fixed",
    "workers": 0,
    "device": "cpu",
    "log_every": 1,
    "checkpoint_every_minutes": 0,
    "knn_every": 0,
}


OF_METHODS: dict[str, dict[str, object]] = {  # where the defaults are not to be tried
    "moco": {"recipe": "moco-v2", "mlp": True, "schedule": "cosine"},
    "cvsa": {"background_negative": True},
    "codo": {"lowest_level": 4, "queries": 2, "image_size": 64},
    "colourisation": {"arch": "resnet18-l"},
}


def tiny_of(method: str) -> dict[str, object]:
    """What of a tiny run's settings is to be given for this method."""
    own = load_method(method).Settings.model_fields
    negatives = {"negatives": 8} if "negatives" in own else {}
    return {"method": method} | negatives | OF_METHODS.get(method, {})


def tiny(photographs, **changes: object) -> Settings:
    """Settings of a run of 2 x 3 steps on the twelve photographs."""
    paths = {"images": str(photographs.images), "masks": str(photographs.masks)}
    return build_settings(paths, TINY | tiny_of(changes.get("method", "instdisc")), changes)


def command(photographs, out: Path, *options: str, **changes: object) -> list[str]:
    """Return the arguments of the same run by the command."""
    changes = tiny_of(changes.get("method", "instdisc")) | changes
    settings = [f"--set={name}={json.dumps(v)}" for name, v in (TINY | changes).items()]
    masks = f"--masks={photographs.masks}"
    return [str(photographs.images), masks, f"--out={out}", *settings, *options]


def start(arguments: list[str], launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start `python -m pretrain`, one thread, output to pipes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "pretrain", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Wait for a run to end with this exit code; return its whole output."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def stop_after(process: subprocess.Popen, out: Path, step: int, number: signal.Signals) -> None:
    """Send a signal once metrics.jsonl has the step."""
    deadline = time.monotonic() + 120
    while process.poll() is None and max(losses(out), default=0) < step:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)


def losses(out: Path) -> dict[int, float]:
    """Return the losses of metrics.jsonl by step; a step that is there twice is an error."""
    found: dict[int, float] = {}
    for line in metrics(out):
        if "loss" in line:
            assert line["step"] not in found
            found[line["step"]] = line["loss"]
    return found


def metrics(out: Path) -> list[dict]:
    """Return the whole lines of metrics.jsonl."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def stop_within(monkeypatch, step: int) -> None:
    """Send SIGTERM to this process when this step's learning rate is asked for."""
    rate = trainer.learning_rate

    def signal_then(done: int, *arguments: object, **options: object) -> float:
        if done + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(done, *arguments, **options)

    monkeypatch.setattr(trainer, "learning_rate", signal_then)


def same_weights(a: Path, b: Path) -> bool:
    """Whether two runs ended with equal backbones."""
    a, b = (torch.load(x / "backbone.pt", weights_only=True)["state_dict"] for x in (a, b))
    return all(torch.equal(a[name], b[name]) for name in a)

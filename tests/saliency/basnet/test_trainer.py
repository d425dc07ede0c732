"""The training loop waits seldom for the device, and yet saves nothing after a loss gone wrong."""

import math
import os
import signal
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data.errors import UserError
from data.metrics import read_metrics
from data.run import Run, checkpoints, load
from saliency.basnet import BASNet
from saliency.basnet.settings import Settings
from saliency.basnet.trainer import Trainer

STEPS = 25  # an epoch


def trainer_into(out, epochs=1):
    pairs = [SimpleNamespace(name=str(number)) for number in range(2 * STEPS)]
    settings = Settings(batch_size=2, crop=32, epochs=epochs, width=1 / 32, from_scratch=True)
    return Trainer(BASNet(width=1 / 32), pairs, [], Run(out), settings, torch.device("cpu"))


def played(trainer, losses, stop_after=None):
    """A trainer whose steps answer with these losses, and whose weights count the steps."""
    left = iter(losses)

    def step(inputs, target, lr):
        with torch.no_grad():
            trainer.network.inconv.bias.fill_(trainer.step + 1)
        if trainer.step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.tensor(next(left))

    def validate(epoch):
        torch.save({}, trainer.run.path("last.pth"))
        return {}

    trainer._train_step = step
    trainer._loader = lambda epoch, done: [(None, None)] * (STEPS - done)
    trainer._validate = validate
    return trainer


def saved(out):
    return checkpoints(out / "checkpoints")


def lines(out, name):
    return [line[name] for line in read_metrics(out / "metrics.jsonl") if name in line]


class Reads(TorchDispatchMode):
    """Counts the values that the program takes from tensors, for each of which it waits."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), more=None):
        self.calls[function.name().split(".")[0]] += 1
        return function(*arguments, **more or {})


def test_a_step_is_launched_without_waiting_for_its_loss(tmp_path, monkeypatch):
    trainer = trainer_into(tmp_path)
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)  # reads its counters, on the CPU
    batch = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    with Reads() as reads:
        trainer._train_step(*batch, lr=1e-3)
    assert reads.calls["aten::convolution"] and not reads.calls["aten::_local_scalar_dense"]


def test_losses_are_read_every_ten_steps_and_averaged(tmp_path, monkeypatch):
    losses = [float(torch.tensor(10 / (1 + step))) for step in range(STEPS)]  # exact in float32
    read, stack = [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda some: read.append(len(some)) or stack(some))
    played(trainer_into(tmp_path), losses).train()
    assert read == [10, 10, 5]
    assert lines(tmp_path, "loss") == losses
    assert lines(tmp_path, "epoch_loss") == pytest.approx([sum(losses) / STEPS])


def test_stopped_run_is_resumed_with_all_its_losses(tmp_path):
    losses = [float(torch.tensor(0.1 + step)) for step in range(STEPS)]
    trainer = played(trainer_into(tmp_path), losses, stop_after=13)
    assert trainer.train().number == signal.SIGTERM and not trainer.done
    [(step, path)] = saved(tmp_path)
    assert step == 13 and load(path)["network"]["inconv.bias"][0] == 13
    trainer = played(trainer_into(tmp_path), losses[13:])
    assert trainer.resume() and not trainer.train() and trainer.done
    assert lines(tmp_path, "loss") == losses
    assert lines(tmp_path, "epoch_loss") == pytest.approx([sum(losses) / STEPS])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", [1, 4, 10, 11, 25])
def test_nothing_is_saved_after_a_loss_that_is_not_finite(tmp_path, bad, value):
    losses = [1.0] * (bad - 1) + [value] * STEPS
    with pytest.raises(UserError, match=rf"the loss of step {bad} .* is {value};"):
        played(trainer_into(tmp_path), losses).train()
    assert not saved(tmp_path) and not list(tmp_path.glob("*.pth"))


def test_good_checkpoint_before_a_bad_loss_is_kept(tmp_path):
    losses = [1.0] * (STEPS + 6) + [math.nan] * STEPS
    with pytest.raises(UserError, match=f"step {STEPS + 7} .*; .*checkpoint-{STEPS:08d}.pt"):
        played(trainer_into(tmp_path, epochs=2), losses).train()
    [(step, path)] = saved(tmp_path)
    assert step == STEPS and load(path)["network"]["inconv.bias"][0] == STEPS


def test_signal_after_a_bad_loss_saves_nothing(tmp_path):
    trainer = played(trainer_into(tmp_path), [1.0, 1.0, math.nan, 1.0], stop_after=4)
    with pytest.raises(UserError, match=r"the loss of step 3 .* is nan;"):
        trainer.train()
    assert not saved(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("stop_after", [None, 7])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value, stop_after):
    """An update may ruin the weights behind a finite loss, at the very step of a checkpoint."""
    trainer = played(trainer_into(tmp_path), [1.0] * STEPS, stop_after)
    step, last = trainer._train_step, stop_after or STEPS

    def ruin(*batch):
        loss = step(*batch)
        if trainer.step + 1 == last:
            with torch.no_grad():
                trainer.network.inconv.weight[0, 0, 0, 0] = value
        return loss

    trainer._train_step = ruin
    with pytest.raises(UserError, match=rf"weights .* not finite after step {last}; .* --lr"):
        trainer.train()
    assert not saved(tmp_path) and not list(tmp_path.glob("*.pth"))

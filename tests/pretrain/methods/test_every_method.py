"""What is promised of every method of the registry: exact resume, any workers, two processes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from pretrain.methods import METHODS
from pretrain.trainer import train
from tests.pretrain.runs import REPOSITORY, command, losses, same_weights, stop_within, tiny

METHOD = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def _same_threads():
    """The same sums in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@METHOD
def test_stopped_and_resumed_with_other_workers_is_exact(
    photographs, tmp_path, method, monkeypatch
):
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert train(tiny(photographs, method=method), whole).done
    with monkeypatch.context() as short:
        stop_within(short, 2)
        assert not train(tiny(photographs, method=method), out).done
    assert max(losses(out)) == 2
    assert train(tiny(photographs, method=method, workers=1), out, resume=True).done
    assert losses(out) == losses(whole)
    assert same_weights(out, whole)


# four images of 64 pixels a batch-norm group: fewer values magnify rounding
GROUPED = {"bn_groups": 2, "batch_size": 8, "image_size": 64, "lr": 0.003}
SHARED = {name: {"method": name} for name in METHODS} | {  # one normaliser for both, too
    "instdisc-nce": {"shared_negatives": True, "loss": "nce"}
}


@pytest.fixture(scope="module")
def by_two(photographs, tmp_path_factory):
    """The folder of all these runs, each by two processes, which start only once."""
    folder = tmp_path_factory.mktemp("two")
    runs = [command(photographs, folder / n, **GROUPED, **own) for n, own in SHARED.items()]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    words = [sys.executable, *launcher, "-m", "tests.pretrain.two_processes", json.dumps(runs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done.") == len(runs)
    return folder


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_equal_one(photographs, tmp_path, by_two, name):
    """With batch norm over the same groups of the batch, losses agree but for rounding."""
    train(tiny(photographs, **GROUPED, **SHARED[name]), tmp_path / "one")
    one, two = losses(tmp_path / "one"), losses(by_two / name)
    assert one.keys() == two.keys()
    assert list(two.values()) == pytest.approx(list(one.values()), rel=2e-3)
    assert two[1] == pytest.approx(one[1], rel=1e-5)

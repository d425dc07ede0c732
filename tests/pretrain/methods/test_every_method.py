"""What is promised of every method of the registry: exact resume, any workers, two processes."""

import pytest
import torch

from pretrain.methods import METHODS
from pretrain.trainer import train
from tests.pretrain.runs import check_two_processes, losses, same_weights, stop_within, tiny

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


@METHOD
def test_two_processes_equal_one(photographs, tmp_path, method):
    check_two_processes(photographs, tmp_path, method=method)

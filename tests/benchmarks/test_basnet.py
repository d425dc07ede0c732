"""BASNet's benchmark: what its network row holds, and the whole on a few photographs."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import basnet
from benchmarks.training.data import make_photographs


class PlayedMethod:
    """A network on a played GPU, which gives back nothing that could be copied."""

    def __init__(self) -> None:
        self.device = torch.device("cuda:1")
        self.calls = 0

    def compute(self, batch, keys) -> None:
        self.calls += 1


def test_the_network_row_waits_for_its_own_gpu_and_copies_nothing(monkeypatch):
    method, waited = PlayedMethod(), []
    monkeypatch.setattr(basnet, "NETWORK_SECONDS", 0.0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(str(device)))
    assert basnet.network_milliseconds(method, np.zeros((4, 3))) > 0
    assert set(waited) == {"cuda:1"} and method.calls > len(waited)


@pytest.mark.parametrize("jobs", [1, 2])
def test_tables(tmp_path, jobs):
    make_photographs(tmp_path / "photographs", 4)
    arguments = ["--images", tmp_path / "photographs", "--width", 0.03125, "--device", "cpu"]
    arguments += ["--limit", 6, "--batch-size", 2, "--jobs", jobs, "--repeat", 1]
    result = CliRunner().invoke(basnet.main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines] == [
        "step",
        "decode",
        "resize, normalise",
        "stretch, resize back",
        "compress",
        "network",
        "stage",
        "BASNet",
        "a network that costs nothing",
    ]

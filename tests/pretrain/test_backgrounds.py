"""A source of backgrounds is one module and one line of the registry."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.pretrain.runs import REPOSITORY, command

_SOURCE = """
import numpy as np

class Checkerboards:
    def __len__(self):
        return 3

    def read(self, number):
        board = np.indices((64, 64)).sum(0) // 8 % 2
        return (board[..., None] * np.array([0, 200, 40 * number])).astype(np.uint8)
"""
_PROGRAM = """
from data.backgrounds import BACKGROUNDS, Background

BACKGROUNDS["checkerboards"] = Background("checkerboards:Checkerboards", "boards of 8 pixels")

if __name__ == "__main__":
    from dilo import pretrain

    pretrain()
"""


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "checkerboards.py").write_text(_SOURCE)
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
    )


def test_a_newcomer_is_a_module_and_a_line(photographs, tmp_path):
    out = tmp_path / "run"
    options = ["--background=checkerboards", "--paste-probability=1", "--epochs=1"]
    done = run(tmp_path, _PROGRAM, *command(photographs, out, *options, workers=1))
    assert done.returncode == 0, done.stderr
    green = (np.asarray(Image.open(out / "views.png")).astype(int) == [0, 200, 40]).all(-1)
    assert green.sum() > 500  # the crops pasted on the second board
    assert "on checkerboards" in done.stdout + done.stderr
    assert "checkerboards" in run(tmp_path, _PROGRAM, "--help").stdout


def test_it_takes_no_pool_and_without_its_line_it_is_refused(photographs, tmp_path):
    arguments = command(photographs, tmp_path / "run", "--background=checkerboards")
    done = run(tmp_path, _PROGRAM, *arguments, "--background-pool=boards")
    assert done.returncode == 2 and "'checkerboards', which takes none" in done.stderr
    done = run(tmp_path, "from dilo import pretrain; pretrain()", *arguments)
    assert done.returncode == 2 and "checkerboards" in done.stderr
    assert not (tmp_path / "run").exists()

"""Commands answer `--help` without torch, which takes seconds to load."""

import subprocess
import sys

import pytest

MODULES = ["data.cli", "saliency.cli", "saliency.batch", "pretrain.cli", "evaluate.cli"]


@pytest.mark.parametrize("module", MODULES)
def test_no_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

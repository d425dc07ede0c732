"""Commands answer `--help` without torch, which takes seconds to load."""

import subprocess
import sys

import pytest

MODULES = ["data.cli", "saliency.cli", "saliency.batch", "pretrain.cli", "evaluate.cli"]


@pytest.mark.parametrize("module", MODULES)
def test_no_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_registry_of_saliency_methods_loads_no_kernels():
    program = (
        "import sys, saliency.cli, saliency.methods\n"
        "[method.record for method in saliency.methods.METHODS.values()]\n"
        "sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

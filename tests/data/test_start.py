"""Commands that need no torch start without it: it takes seconds to load."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["data.cli", "saliency.cli", "saliency.batch"])
def test_no_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

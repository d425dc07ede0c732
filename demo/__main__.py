"""`python -m demo [FOLDER]`, which `make demo` runs."""

import sys
from pathlib import Path

from demo.journey import Journey

Journey(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")).run()

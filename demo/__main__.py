"""`python -m demo [FOLDER]`, which `make demo` runs."""

import sys
from pathlib import Path

from demo.journey import Journey

if __name__ == "__main__":  # not in the process that draws
    Journey(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")).run()

"""Running the project's commands as a user would, each printed before it runs."""

import shlex
import subprocess
import sys
from pathlib import Path

_PACKAGES = {
    "saliency-compute": "saliency",
    "mask-shards": "data",
    "pretrain": "pretrain",
    "probe": "evaluate",
}


def run(*command: object) -> None:
    """Run one of the four commands; stop if it fails.

    It is the one installed beside this Python, or in a checkout that is not installed the same by
    `python -m`.
    """
    words = [str(word) for word in command]
    print("\n$ " + shlex.join(words), flush=True)
    program = Path(sys.executable).parent / words[0]
    start = [str(program)] if program.exists() else [sys.executable, "-m", _PACKAGES[words[0]]]
    done = subprocess.run([*start, *words[1:]])
    if done.returncode:
        print("\nStopped. The same command goes on; an empty folder starts anew.")
        sys.exit(done.returncode)

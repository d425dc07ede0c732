"""The entry points of DiLo's four commands.

The project's packages have plain names (`saliency`, `pretrain`, `evaluate`, `data`), which another
distribution may own in the same environment: Hugging Face has an `evaluate`. Each command therefore
looks where its packages come from before it imports them, and says in one sentence what is wrong.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

_NEEDED = {  # command's package: every package that it imports
    "saliency": ("data", "saliency"),
    "data": ("data",),
    "pretrain": ("data", "pretrain"),
    "evaluate": ("data", "pretrain", "evaluate"),
}


def foreign_package(names: tuple[str, ...]) -> str | None:
    """Return one sentence on the first of `names` that is missing or not DiLo's, else None."""
    for name in names:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
        if origin is None:
            return f"DiLo's package '{name}' is not installed; install DiLo again."
        if '__distribution__ = "dilo"' not in Path(origin).read_text(encoding="utf-8"):
            return (
                f"the package '{name}' at {Path(origin).parent} belongs to another distribution; "
                "install DiLo in an environment of its own (python3 -m venv)."
            )
    return None


def _run(package: str) -> None:
    complaint = foreign_package(_NEEDED[package])
    if complaint is not None:
        print(f"Error: {complaint}", file=sys.stderr)
        sys.exit(2)
    try:
        command = importlib.import_module(f"{package}.cli").main
    except KeyboardInterrupt:  # Ctrl-C while libraries load
        sys.exit(130)
    command()


def saliency_compute() -> None:
    """`saliency-compute`: saliency masks of a folder of images, into mask shards."""
    _run("saliency")


def mask_shards() -> None:
    """`mask-shards`: look into mask shards, verify, export, import."""
    _run("data")


def pretrain() -> None:
    """`pretrain`: instance discrimination on copy-pasted views."""
    _run("pretrain")


def probe() -> None:
    """`probe`: what a pretrained network has learnt, in scores and pictures."""
    _run("evaluate")

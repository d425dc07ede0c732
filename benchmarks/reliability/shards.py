"""Damaged and hostile shards and indices: never another answer in silence, never a crash or hang.

    python -m benchmarks.reliability.shards [--bytes 550] [--index 270] [--images FOLDER]

Random damage (bits, bytes, zeros, cuts) and crafted structure (attributes, datasets, links, virtual
and external storage, chunks, other files), each in a copy of a small set. What counts as an answer
is a mask, status, size or reason by `MaskShards`, with the index and without, and what `verify` and
`info` say. "same" is everything as it was, "refused" an error in a sentence (`UserError`, or the
system's own `OSError`).
"""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import h5py
import numpy as np
from click.testing import CliRunner

from benchmarks.reliability.common import Table, apart, contents, make_images, run, scratch
from benchmarks.reliability.common import command as line
from benchmarks.reliability.structure import of_index, of_shards
from data.cli import main as mask_shards
from data.errors import UserError
from data.masks.index import build_index
from data.masks.read import MaskShards
from data.masks.verify import verify

Harm = Callable[[Path], None]


def answers(folder: Path) -> dict[str, tuple]:
    """Return all that a reader answers, "refused" where it refuses."""
    told = {}
    with MaskShards(folder) as masks:
        for key in list(masks.keys):
            try:
                mask = masks.read(key).tobytes()
                sizes = masks.mask_size(key), masks.image_size(key)
                told[key] = (mask, masks.status(key), *sizes, masks.error(key))
            except UserError:
                told[key] = ("refused",)
    return told


def judge(folder: Path, truth: dict[str, tuple]) -> str:
    """Read a set in every way, and say what came of it."""
    outcomes = set()
    for way in ("with the index", "without"):
        if way == "without" and not (folder / "index.h5").is_dir():
            (folder / "index.h5").unlink(missing_ok=True)
        try:
            told = answers(folder)
        except (UserError, OSError):
            outcomes.add("refused")
            continue
        if told.keys() != truth.keys():
            return f"SILENT {way}: {len(told)} keys"
        for key, answer in told.items():
            if answer not in (("refused",), truth[key]):
                return f"SILENT {way}: {key}"
            outcomes.add("refused" if answer == ("refused",) else "same")
    return "refused" if "refused" in outcomes else "same"


def judge_verify(folder: Path, plain: bool, truth: dict) -> str:
    """Say what `verify` and `info` do; silent is a change that h5py sees and verify does not."""
    try:
        sound = verify(folder).sound
    except UserError:
        sound = False
    for name in ("info", "index"):
        result = CliRunner().invoke(mask_shards, [name, str(folder)])
        if not isinstance(result.exception, SystemExit | None):
            return f"TRACEBACK {name}: {result.exception!r}"
    if plain and sound and contents(folder) != truth:
        return "SILENT verify: Sound."
    return "same" if sound else "refused"


def random_harm(names: list[str], seed: str) -> Harm:
    """Return damage to one of these files: flipped bits, overwritten bytes, a lost end."""

    def harm(folder: Path) -> None:
        rng = random.Random(seed)
        path = folder / rng.choice(names)
        raw = bytearray(path.read_bytes())
        kind = rng.choice(["bits", "bits", "bits", "bytes", "header", "cut"])
        at = rng.randrange(len(raw))
        if kind == "cut":
            del raw[at:]
        elif kind == "bytes":
            length = rng.choice([1, 4, 8, 64, 2000])
            values = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
            raw[at : at + length] = values[: len(raw) - at]
        else:
            end = len(raw) if kind == "bits" else min(4096, len(raw))
            for _ in range(rng.choice([1, 1, 1, 2, 8])):
                raw[rng.randrange(end)] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)

    return harm


def trials(options: dict, names: list[str]) -> Iterator[tuple[str, str, Harm]]:
    """Yield what each is called in the table, what reproduces it, and the harm."""
    for what, files, count in (
        ("shards", names, options["bytes"]),
        ("index.h5", ["index.h5"], options["index"]),
    ):
        for number in range(count):
            seed = f"{options['seed']} {number}"
            yield f"{what}, random bytes", seed, random_harm(files, seed)
    if options["structure"]:
        for what, harm in of_shards(names):
            yield "shards, structure", what, harm
        for what, harm in of_index():
            yield "index.h5, structure", what, harm


def unsealed(folder: Path) -> None:
    """Take the seals off, so that damage comes to HDF5 and to the digests behind them."""
    for path in folder.glob("shard-*.h5"):
        with h5py.File(path, "r+"):
            pass
    with h5py.File(build_index(folder), "r+"):  # of the shards as they are now
        pass


@click.command()
@click.option("--bytes", default=550, help="Randomly damaged shards.")
@click.option("--index", default=270, help="Randomly damaged indices.")
@click.option("--structure/--no-structure", default=True, help="What h5py can make of them.")
@click.option("--compression", default="zstd")
@click.option("--without-seals", is_flag=True, help="As older versions wrote them.")
@click.option("--images", type=Path, help="Photographs to take.")
@click.option("--seed", default=0)
def main(**options) -> None:
    """Print the table."""
    with Table() as table, scratch(None) as folder:
        images = make_images(folder / "images", 14, 60, options["images"])
        (images / "c0/broken.jpg").write_bytes(b"no image")
        whole, copy = folder / "whole", folder / "copy"
        arguments = (images, whole, "--jobs", 1, "--shard-size", 5, "--max-side", 60)
        more = ("--max-failures", 1, "--compression", options["compression"])
        code, said = run(*line("saliency_compute", *arguments, *more))
        assert code == 0, said
        if options["without_seals"]:
            unsealed(whole)
        truth, plain = answers(whole), contents(whole)
        names = sorted(path.name for path in whole.glob("shard-*.h5"))
        for what, how, harm in trials(options, names):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            try:
                with np.errstate(all="ignore"):
                    harm(copy)
            except (OSError, ValueError, TypeError, RuntimeError) as error:
                table.note(what, "cannot be made", how, error)
                continue
            outcome, *reason = apart(judge, copy, truth).split(" ", 1)
            table.note(f"{what}: readers", outcome, how, *reason)
            shutil.rmtree(copy)
            shutil.copytree(whole, copy)
            harm(copy)
            seen = apart(lambda: "read" if contents(copy) else "", seconds=10) == "read"
            outcome, *reason = apart(judge_verify, copy, seen, plain, seconds=60).split(" ", 1)
            table.note(f"{what}: verify, info, index", outcome, how, *reason)


if __name__ == "__main__":
    main()

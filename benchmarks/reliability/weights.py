"""Damaged and malicious checkpoints: the one before is tried, a sentence otherwise, nothing is run.

    python -m benchmarks.reliability.weights [--flips 150] [--inner 200] [--pickles]

Checkpoints are read as `--resume` does (`Run.newest`, with a sound older one beside: "older" is
that it was taken) and as weights (`read_weights`). "other" is content that nothing can tell from
what was saved: instructions of a pickle changed under right checksums, or a format without any.
"""

import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import safetensors.torch
import torch

from benchmarks.reliability.common import Table, apart, make_images, run, scratch
from benchmarks.reliability.common import command as line
from data.run import Run
from data.weights import read_weights


def whole_state(step: int) -> dict:
    torch.manual_seed(0)
    method = {f"layer{i}.weight": torch.randn(20, 7) for i in range(6)}
    optimizer = {"state": {0: {"momentum_buffer": torch.randn(20, 7)}}, "param_groups": [{"lr": 1}]}
    return {"step": step, "keys": "k", "method": method, "optimizer": optimizer}


def same(state: object) -> bool:
    return repr(state) == repr(whole_state(3))


def saved(state: object, **options: object) -> bytes:
    memory = io.BytesIO()
    torch.save(state, memory, **options)
    return memory.getvalue()


def resumed(folder: Path, data: bytes) -> str:
    """Read a checkpoint beside an older one."""
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = Run(folder, ".")
    older = checkpoints.save(2, whole_state(2))
    older.with_name("checkpoint-00000003.pt").write_bytes(data)
    newest = checkpoints.newest(holding=("keys", "method", "optimizer"))
    if newest.step == 2:
        return "older"
    return "same" if same(newest.state) else "other"


def as_weights(folder: Path, data: bytes, ending: str = "pt") -> str:
    path = folder.with_suffix(f".{ending}")
    path.write_bytes(data)
    return "same" if same(read_weights(path, "--weights")) else "other"


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Change bits, overwrite bytes, or cut."""
    raw = bytearray(data)
    kind, at = rng.randrange(4), rng.randrange(len(raw))
    if kind == 0:
        return bytes(raw[:at])
    if kind == 1:
        noise = rng.randbytes(rng.choice([4, 64, 1000]))
        raw[at : at + len(noise)] = noise[: len(raw) - at]
    for _ in range((0, 0, 1, 8)[kind]):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


_OPCODES = (
    b"(",
    b"t",
    b"R",
    b"0",
    b"}",
    b"K\x05",
    b"\x8a\xff",
    b"J\xff\xff\xff\x7f",
    b"b",
    b"s",
    b"N",
)
_OPCODES += (b"cos\nsystem\n", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f")


def pickle_changed(data: bytes, rng: random.Random) -> bytes:
    """Change the pickle of a zip, every CRC-32 right."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(memory, "w") as new:
        for name in old.namelist():
            raw = bytearray(old.read(name))
            for _ in range(rng.choice([1, 1, 2, 5]) * name.endswith("data.pkl")):
                at, kind = rng.randrange(len(raw)), rng.randrange(4)
                if kind == 0:
                    raw[at] ^= 1 << rng.randrange(8)
                elif kind == 1:
                    raw[at] = rng.randrange(256)
                elif kind == 2:
                    del raw[at : at + rng.choice([1, 4, 20])]
                else:
                    raw[at:at] = rng.choice(_OPCODES)
            new.writestr(name, bytes(raw))
    return memory.getvalue()


def damage(options: dict, folder: Path, table: Table) -> None:
    rng = random.Random(options["seed"])
    good, old = saved(whole_state(3)), saved(whole_state(3), _use_new_zipfile_serialization=False)
    tensors = {f"layer{i}.weight": torch.randn(20, 7) for i in range(6)}
    header = safetensors.torch.save(tensors)
    mutants: list[tuple[str, bytes]] = []
    mutants += [("bits of torch.save", flipped(good, rng)) for _ in range(options["flips"])]
    mutants += [("its pickle", pickle_changed(good, rng)) for _ in range(options["inner"])]
    mutants += [("old torch.save", flipped(old, rng)) for _ in range(options["old"])]
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 30))
    mutants.append(("a zip that grows to 1 GB", bomb.getvalue()))
    for state in ([1], torch.zeros(2), {1: torch.zeros(2)}, {**whole_state(3), "method": [1]}):
        mutants.append(("other content", saved(state)))
    for number, (what, data) in enumerate(mutants):
        for reader, read in (("--resume", resumed), ("weights", as_weights)):
            outcome, *reason = apart(read, folder / "x", data, seconds=120).split(" ", 1)
            table.note(f"{what}: {reader}", outcome, number, *reason)
    for number in range(options["safetensors"]):
        data = flipped(header[:600], rng) + header[600:]
        outcome, *reason = apart(as_weights, folder / "x", data, "safetensors").split(" ", 1)
        outcome = "read" if outcome == "other" else outcome
        table.note("safetensors' header: weights", outcome, number, *reason)


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def evil_files(mark: Path) -> dict[str, bytes]:
    evil, files = Evil(mark), {}
    for protocol in (0, 2, 4, 5):
        files[f"a pickle of protocol {protocol}"] = pickle.dumps(evil, protocol)
    content = {"state_dict": evil, "keys": "", "method": {}, "optimizer": {}}
    files["torch.save"] = saved(content)
    files["old torch.save"] = saved(content, _use_new_zipfile_serialization=False)
    for name, save in (("npy", np.save), ("npz", np.savez)):
        memory = io.BytesIO()
        save(memory, np.array([evil], object))
        files[name] = memory.getvalue()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(evil, 2))
        archive.writestr("archive/version", "3\n")
    return files | {"a zip made by hand": memory.getvalue()}


def malicious(options: dict, folder: Path, table: Table) -> None:
    """Feed pickles to everything that takes a file."""
    from data.cli import main as mask_shards
    from evaluate.cli import main as probe
    from pretrain.cli import main as pretrain
    from saliency.cli import main as saliency_compute

    images = make_images(folder / "images", 12, 60, options["images"])
    masks, mark = folder / "masks", folder / "executed"
    code, said = run(*line("saliency_compute", images, masks, "--jobs", 1))
    assert code == 0, said
    training = [images, "--masks", masks, "--image-size", 32, "--batch-size", 4, "--epochs", 1]
    training += ["--device", "cpu", "--workers", 0, "--negatives", 8, "--arch", "resnet18"]

    def called(command: Callable, *arguments: object) -> str:
        try:
            command([str(argument) for argument in arguments])
        except SystemExit as end:
            return "refused" if end.code else "took it"
        return "took it"

    def fed(where: str, how: str, command: Callable, *arguments: object) -> None:
        mark.unlink(missing_ok=True)
        outcome, *reason = apart(called, command, *arguments, seconds=120).split(" ", 1)
        outcome = "EXECUTED" if mark.exists() else outcome
        table.note(f"malicious pickle as {where}", outcome, how, *reason)

    for how, data in evil_files(mark).items():
        path, made = folder / "evil.pth", folder / "made"
        path.write_bytes(data)
        for method in ("basnet", "cam", "gradient"):
            options = ("--method", method, "--weights", path, "--device", "cpu")
            fed(f"{method}'s weights", how, saliency_compute, images, made, *options)
        fed("a probe's checkpoint", how, lambda a: probe(a), "export", path, folder / "out.pt")
        fed("init", how, pretrain, *training, "--out", made, "--set", f"init={path}")
        fed("a pool", how, pretrain, *training, "--out", made, "--background-pool", path)
        fed("a configuration", how, pretrain, *training, "--out", made, "--config", path)
        for name in ("shard-00000.h5", "index.h5"):
            copy = folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(masks, copy)
            (copy / name).write_bytes(data)
            for command in ("verify", "info", "index"):
                fed(f"{name} of {command}", how, mask_shards, command, copy)
        resumed_run = folder / "run"
        shutil.rmtree(resumed_run, ignore_errors=True)
        (resumed_run / "checkpoints").mkdir(parents=True)
        (resumed_run / "checkpoints/checkpoint-00000001.pt").write_bytes(data)
        (resumed_run / "config.toml").touch()
        fed("a run's checkpoint", how, pretrain, *training, "--out", resumed_run, "--resume")
        only = folder / "only"
        shutil.rmtree(only, ignore_errors=True)
        only.mkdir()
        (only / "a.jpg").write_bytes(data)
        fed("an image", how, saliency_compute, only, made, "--jobs", 1, "--overwrite")
        fed("masks to import", how, mask_shards, "import", only, folder / "set", "--images", only)


@click.command()
@click.option("--flips", default=150)
@click.option("--inner", default=200)
@click.option("--old", default=75)
@click.option("--safetensors", default=100)
@click.option("--pickles", is_flag=True, help="Feed malicious pickles to the commands, too.")
@click.option("--images", type=Path, help="Photographs to take.")
@click.option("--seed", default=0)
def main(**options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with Table() as table, scratch(None) as folder:
        damage(options, folder, table)
        if options["pickles"]:
            malicious(options, folder, table)


if __name__ == "__main__":
    main()

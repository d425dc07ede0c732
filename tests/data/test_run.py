"""Checkpoints: whole or not at all, checked, and with one to fall back to."""

import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch

from data import run as checkpoint
from data.errors import UserError


def save(folder, *arguments, **options):
    return checkpoint.Run(folder, checkpoints=".").save(*arguments, **options)


def newest(folder, holding=()):
    return checkpoint.Run(folder, checkpoints=".").newest(holding, lambda sentence: None)


def state(step: int) -> dict:
    return {"weights": torch.full((1000,), float(step)), "step": step, "names": ["a", "b"]}


def test_round_trip_and_names(tmp_path):
    path = save(tmp_path / "new", 12, state(12))
    assert path.name == "checkpoint-00000012.pt"
    found = newest(tmp_path / "new")
    assert (found.step, found.path, found.damaged) == (12, path, [])
    assert torch.equal(found.state["weights"], state(12)["weights"])
    assert found.state["names"] == ["a", "b"]


def test_nothing_there(tmp_path):
    assert newest(tmp_path / "absent") is None
    assert newest(tmp_path) is None


def test_keeps_the_newest(tmp_path):
    for step in (1, 2, 30, 4_000_000_000):
        save(tmp_path, step, state(step), keep=2)
    assert [step for step, _ in checkpoint.checkpoints(tmp_path)] == [30, 4_000_000_000]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(os.urandom(5000))


def a_folder(path):
    path.unlink()
    path.mkdir()


def broken_pickle(path, position=40):
    """Change one instruction of the pickle, with every CRC-32 right."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    (pickled,) = (part for name, part in parts.items() if name.endswith("data.pkl"))
    pickled[position] = ord("b")
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, bytes(part))


def test_a_pickle_damaged_anywhere_falls_back(tmp_path):
    """With every CRC right; what PyTorch raises then is of a dozen kinds."""
    save(tmp_path, 1, state(1))
    last = save(tmp_path, 2, state(2))
    whole, fallen_back = last.read_bytes(), 0
    for position in range(2, 120, 2):
        last.write_bytes(whole)
        broken_pickle(last, position)
        fallen_back += newest(tmp_path).step == 1
    assert fallen_back > 40  # where a name is changed it is another state, and nobody can tell


@pytest.mark.parametrize("harm", [flip_a_bit, truncate, empty, garbage, a_folder])
def test_damaged_last_falls_back(tmp_path, harm):
    save(tmp_path, 1, state(1))
    last = save(tmp_path, 2, state(2))
    harm(last)
    found = newest(tmp_path)
    assert found.step == 1 and found.state["step"] == 1
    ((path, reason),) = found.damaged
    assert path == last and ("damaged" in reason or reason == "Is a directory")
    found.set_aside()
    assert not last.exists() and last.with_name(last.name + ".damaged").exists()


def test_only_its_own_temporary_files_are_removed(tmp_path):
    (tmp_path / "notes.tmp").write_text("mine")
    forsaken = tmp_path / ".checkpoint-00000001.pt.0a1b2c3d.tmp"
    forsaken.write_bytes(b"half")
    save(tmp_path, 2, state(2))
    assert (tmp_path / "notes.tmp").exists() and not forsaken.exists()


def test_all_damaged(tmp_path):
    for step in (1, 2):
        flip_a_bit(save(tmp_path, step, state(step), keep=5))
    with pytest.raises(UserError, match=r"none of the 2 checkpoints .* is sound"):
        newest(tmp_path)


def test_one_of_another_program_falls_back(tmp_path):
    save(tmp_path, 1, state(1))
    for step, theirs in [(2, {"state_dict": {}}), (3, torch.zeros(3))]:
        save(tmp_path, step, theirs, keep=5)
    found = newest(tmp_path, holding=("step",))
    assert found.step == 1
    assert [path.name for path, _ in found.damaged] == [
        "checkpoint-00000003.pt",
        "checkpoint-00000002.pt",
    ]
    assert "holds no 'step'" in found.damaged[0][1]
    with pytest.raises(UserError, match=r"none of the 3 checkpoints .* is sound .*'nobody'"):
        newest(tmp_path, holding=("nobody",))


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint-00000001.pt"
    torch.save({"x": Evil()}, path)
    with pytest.raises(UserError, match="cannot be used"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)
    assert not (tmp_path / "pwned").exists()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        checkpoint.load(tmp_path / "nothing.pt")


def test_killed_while_writing_leaves_the_earlier_one(tmp_path):
    program = f"""
import torch
from data.run import Run
run, step = Run({str(tmp_path)!r}, checkpoints="."), 0
while True:
    step += 1
    run.save(step, {{"step": step, "x": torch.full((2_000_000,), step)}})
"""
    for wait in (0.0, 0.03, 0.07):
        process = subprocess.Popen([sys.executable, "-c", program])
        while len(checkpoint.checkpoints(tmp_path)) < 2:
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = newest(tmp_path)
        assert found.damaged == []
        assert found.step == found.state["step"] == int(found.state["x"][-1])
    save(tmp_path, found.step + 1, state(1))
    assert not list(tmp_path.glob("*.tmp"))

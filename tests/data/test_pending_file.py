"""A file appears whole or not at all."""

import errno
import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from data.errors import UserError
from data.pending_file import PendingFile, remove_if_stale


def test_appears_only_when_published(tmp_path):
    path = tmp_path / "new" / "a.bin"
    file = PendingFile(path)
    file.write(b"hello")
    (temporary,) = path.parent.iterdir()
    assert re.fullmatch(r"\.a\.bin\.[0-9a-f]{8}\.tmp", temporary.name)
    file.publish()
    assert path.read_bytes() == b"hello"
    assert list(path.parent.iterdir()) == [path]
    file.write(b"too late")  # does nothing
    assert path.read_bytes() == b"hello"


def test_discarded_without_a_trace(tmp_path):
    file = PendingFile(tmp_path / "a.bin")
    file.write(b"hello")
    file.discard()
    file.discard()
    assert not list(tmp_path.iterdir())


def test_hdf5_through_it_is_hdf5(tmp_path):
    data = np.random.default_rng(0).random((100, 100))
    pending = PendingFile(tmp_path / "a.h5")
    with h5py.File(pending, "w") as file:
        file["x"] = data
        del file["x"]
        file["y"] = data
        assert np.array_equal(file["y"][:], data)
    pending.publish()
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert np.array_equal(file["y"][:], data)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_write_is_told_once_asked(tmp_path, monkeypatch, capfd, code):
    pending = PendingFile(tmp_path / "a.h5")
    pwrite = os.pwrite
    count = 0

    def fail(*arguments):
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(code, os.strerror(code))
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", fail)
    with h5py.File(pending, "w") as file:
        for number in range(5):
            file[f"{number}"] = np.arange(10_000)
            file.flush()
    with pytest.raises(UserError, match="cannot be written" if code == errno.EIO else "is full"):
        pending.publish()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""  # HDF5 has not noticed


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        PendingFile(tmp_path / "file" / "a.bin")


def test_only_a_dead_writers_file_is_stale(tmp_path):
    program = (
        "import sys; from data.pending_file import PendingFile;"
        "file = PendingFile(sys.argv[1]); print(file.temporary, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "a.bin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    temporary = tmp_path / process.stdout.readline().strip()
    assert not remove_if_stale(temporary)
    assert temporary.exists()
    process.kill()
    process.wait()
    assert remove_if_stale(temporary)
    assert not temporary.exists()
    assert not remove_if_stale(temporary)


def test_without_locks_a_file_goes_unless_certainty_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("data.pending_file.fcntl", None)
    file = PendingFile(tmp_path / "a.bin")
    assert not remove_if_stale(file.temporary, certain=True)
    assert remove_if_stale(file.temporary)
    file.discard()
    assert not list(tmp_path.iterdir())

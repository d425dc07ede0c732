"""No bit of a shard or of an index changes an answer in silence, and no file ends a process."""

import faulthandler
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch

from data.errors import UserError
from data.masks.format import shard_name
from data.masks.index import build_index, load_index
from data.masks.opening import Locked
from data.masks.read import MaskShards
from data.masks.verify import verify
from data.processes import done_apart


def change(path, column, row, value):
    with h5py.File(path, "r+") as file:
        file[column][row] = value


def answers(shards):
    return [
        (key, shards.read(key).tobytes(), shards.mask_size(key), shards.image_size(key))
        for key in shards.keys
    ] + [(shards.status(key), shards.error(key)) for key in shards.keys]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", 3),
        ("mask_size", (2, 2)),
        ("image_size", (7, 7)),
        ("keys", "a/000"),
        ("checks", 5),
    ],
)
def test_a_reader_refuses_a_shard_with_a_changed_row(tmp_path, write_shards, masks, column, value):
    write_shards(tmp_path, masks, size=4, index=False)
    change(tmp_path / shard_name(0), column, 0, value)
    with pytest.raises(UserError, match=r"shard-00000.h5' is damaged \(its (keys|rows) are not"):
        MaskShards(tmp_path)
    assert not verify(tmp_path).sound


@pytest.mark.parametrize("index", [True, False])
def test_a_changed_error_text_is_no_answer(tmp_path, write_shards, masks, index):
    write_shards(tmp_path, masks, size=50, index=index)
    change(tmp_path / shard_name(0), "error", 9, "nothing is wrong")
    with pytest.raises(UserError, match="its error texts are not those it was made with"):
        MaskShards(tmp_path).error("m.jpg")
    assert "its error texts are not" in verify(tmp_path).problems[0]


def test_no_bit_of_the_index_changes_an_answer(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=50)
    path = tmp_path / "index.h5"
    good, expected = path.read_bytes(), answers(MaskShards(tmp_path))
    with h5py.File(path) as file:
        columns = [file["table"][name] for name in file["table"]]
        spans = [(column.id.get_offset(), column.nbytes) for column in columns]
    rng = np.random.default_rng(0)
    for offset, size in spans:
        for byte in (offset + rng.integers(0, size, 4)).tolist():
            raw = bytearray(good)
            raw[byte] ^= 1 << int(rng.integers(8))
            path.write_bytes(raw)
            assert load_index(tmp_path) is None
            assert answers(MaskShards(tmp_path)) == expected
            assert "index.h5: it does not fit the shards" in verify(tmp_path).problems[0]


def test_no_bit_of_a_mask_changes_it_in_silence(tmp_path, write_shards, masks):
    keys = write_shards(tmp_path, masks, size=50)
    path, row = tmp_path / shard_name(0), keys.find("a/001.JPEG")
    good = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file["masks"].id.get_chunk_info_by_coord((row, 0, 0))
    for byte in range(chunk.byte_offset, chunk.byte_offset + chunk.size, 97):
        raw = bytearray(good)
        raw[byte] ^= 4
        path.write_bytes(raw)
        with pytest.raises(UserError, match="its checksum differs"):
            MaskShards(tmp_path).read(row)


# Files that HDF5 must not follow ----------------------------------------------------------------


def replace(path, name, make):
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        old = file[name]
        shape, kind = old.shape, old.dtype
        del file[name]
        make(file, name, shape, kind)


def virtual(file, name, shape, kind):
    layout = h5py.VirtualLayout(shape, kind)
    layout[...] = h5py.VirtualSource(shard_name(1), name, shape, kind)
    file.create_virtual_dataset(name, layout)


def external(file, name, shape, kind):
    unlimited = h5py.h5f.UNLIMITED
    file.create_dataset(name, shape, "u4", external=[("/etc/passwd", 0, unlimited)])


def linked(file, name, shape, kind):
    file[name] = h5py.ExternalLink(shard_name(0), name)


def soft(file, name, shape, kind):
    file[name] = h5py.SoftLink("/" + name)


def huge(file, name, shape, kind):
    file.create_dataset(name, (10**9, *shape[1:]), kind, chunks=(1024, *shape[1:]))


def group(file, name, shape, kind):
    file.create_group(name)


def numbers(file, name, shape, kind):
    file.create_dataset(name, shape, "f4")


NAMES = ("keys", "status", "error", "mask_size", "image_size", "checks")


@pytest.mark.parametrize("name", [*NAMES, "masks"])
@pytest.mark.parametrize("make", [virtual, linked, soft, group, numbers, external, huge])
def test_what_is_not_the_shard_s_own_is_refused(tmp_path, write_shards, masks, name, make):
    if (make is external and name in ("keys", "error")) or (make is huge and name == "masks"):
        pytest.skip("HDF5 cannot store it so")
    write_shards(tmp_path, masks, size=4, index=False)
    replace(tmp_path / shard_name(1), name, make)
    with pytest.raises(UserError, match=r"shard-00001\.h5' is damaged"):
        MaskShards(tmp_path)
    report = verify(tmp_path)
    damaged = [problem for problem in report.problems if "shard-00001.h5' is damaged" in problem]
    assert len(damaged) == 1 and report.images == 7  # the other shards'


@pytest.mark.parametrize("name", [shard_name(1), "index.h5"])
def test_a_pipe_is_not_waited_for(tmp_path, write_shards, masks, name):
    write_shards(tmp_path, masks, size=4)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    report = verify(tmp_path)
    assert not report.sound and name in " ".join(report.problems)
    if name == "index.h5":
        assert len(MaskShards(tmp_path)) == 11
    else:
        with pytest.raises(UserError, match="is not a regular file"):
            MaskShards(tmp_path)


# What HDF5 does not survive ---------------------------------------------------------------------


def work(item, alive):
    if item == "crash":
        faulthandler.disable()  # pytest's
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "hang":
        time.sleep(100)
    if item == "long":
        for _ in range(8):
            time.sleep(0.4)
            alive()
    return item.upper()


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_process_that_fails_is_a_text(jobs):
    items = ["a", "crash", "b", "hang", "c", "crash", "long", "d"]
    results = list(done_apart(work, items, jobs, 2))
    assert [results[i] for i in (0, 2, 4, 6, 7)] == ["A", "B", "C", "LONG", "D"]
    assert results[1] == results[5] == "the process that read it died (SIGSEGV)"
    assert results[3] == "nothing came of it for 2 s"


@pytest.fixture
def without_end(tmp_path, write_shards, masks, monkeypatch):
    """Shards without a seal, one with zeros in the heap of its texts, on which HDF5 never ends."""
    monkeypatch.setattr("data.masks.opening.done_apart.__defaults__", (1, 60, 1))
    write_shards(tmp_path, masks, size=4, index=False)
    path = tmp_path / shard_name(1)
    with h5py.File(path, "r+"):
        pass
    raw = bytearray(path.read_bytes())
    start = raw.index(b"GCOL") + 16
    raw[start : start + 2000] = bytes(2000)
    path.write_bytes(raw)
    return tmp_path


def test_a_lost_sector_is_one_line(without_end):
    report = verify(without_end)
    assert sum("shard-00001.h5' is damaged" in problem for problem in report.problems) == 1
    assert report.images == 7


def test_a_reader_does_not_wait_for_what_never_ends(without_end):
    with pytest.raises(UserError, match=r"shard-00001.h5' is damaged \(HDF5 fails at it, it comp"):
        MaskShards(without_end)


class Loaded(torch.utils.data.Dataset):
    """Opens the shards in the loading process, as users of HDF5 do."""

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 11

    def __getitem__(self, row):
        return int(MaskShards(self.folder).read(row).sum())


def test_shards_without_a_seal_are_read_in_loading_processes(
    tmp_path, write_shards, masks, monkeypatch
):
    write_shards(tmp_path, masks, size=4, index=False)
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+"):
            pass
    loader = torch.utils.data.DataLoader(Loaded(tmp_path), num_workers=1)
    with MaskShards(tmp_path) as shards:
        assert [int(total) for total in loader] == [int(shards.read(i).sum()) for i in range(11)]
    looked = []
    monkeypatch.setattr("data.masks.opening.done_apart", lambda *_: looked.append(1))
    assert len(MaskShards(tmp_path)) == 11 and not looked  # once is enough


# Locks ------------------------------------------------------------------------------------------

_LOCKED = """
import fcntl, subprocess, sys
with open(sys.argv[1], "rb+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    for command in ("verify", "info"):
        code = "from data.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, command, sys.argv[2]], capture_output=True, text=True
        )
        print(done.returncode, done.stdout, done.stderr)
"""


def test_a_lock_is_named_and_nothing_is_called_unsound(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=4)
    done = subprocess.run(
        [sys.executable, "-c", _LOCKED, tmp_path / shard_name(1), tmp_path],
        env={**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("is locked by another process") == 2, done
    assert done.stdout.count("HDF5_USE_FILE_LOCKING=FALSE") == 2
    assert "ound." not in done.stdout and "Traceback" not in done.stdout
    assert issubclass(Locked, UserError)


def test_an_index_made_again_is_used(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    change(tmp_path / "index.h5", "table/status", 0, 1)
    assert load_index(tmp_path) is None
    build_index(tmp_path)
    assert load_index(tmp_path) is not None

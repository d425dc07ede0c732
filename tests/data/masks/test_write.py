"""What is written is what any HDF5 reader reads; a killed writer leaves no shard."""

import errno
import json
import pickle
import signal
import subprocess
import sys

import h5py
import hdf5plugin
import numpy as np
import pytest

from data.keys import Keys, texts_digest
from data.masks.format import (
    ChunkEncoder,
    ShardWriter,
    Status,
    read_header,
    shard_name,
    shard_paths,
)

ATTRIBUTES = {"method": "rbd", "parameters": {}, "software": {}, "listing_digest": "x"}


def writer_of(path, names, canvas=20):
    return ShardWriter(path, 0, 1, Keys(names), canvas, "zstd", ATTRIBUTES)


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_plain_h5py_reads_what_was_written(tmp_path, write_shards, masks, compression):
    keys = write_shards(tmp_path, masks, size=5, compression=compression)
    rows = 0
    for number, path in enumerate(shard_paths(tmp_path)):
        with h5py.File(path, "r") as file:
            assert dict(file.attrs) == {
                "format": "dilo-mask-shard",
                "format_version": 2,
                "method": "rbd",
                "parameters": '{"max_side": 40}',
                "software": '{"dilo": "0"}',
                "shard_number": number,
                "shard_count": 3,
                "image_count": len(file["keys"]),
                "keys_digest": keys[rows : rows + 5].digest(),
                "listing_digest": keys.digest(),
                "content_digest": read_header(path).content_digest,
                "error_digest": texts_digest(file["error"][:].tolist()),
                "header_digest": file.attrs["header_digest"],
                "complete": 1,
            }
            assert file["masks"].chunks == (1, 40, 40) and file["masks"].fletcher32
            assert h5py.check_enum_dtype(file["status"].dtype) == {
                "OK": 0,
                "FLAT": 1,
                "UNREADABLE": 2,
                "FAILED": 3,
            }
            for row, raw in enumerate(file["keys"][:]):
                assert raw == keys.array[rows]
                rows += 1
                mask = masks[raw.decode("utf-8", "surrogateescape")]
                canvas = np.zeros((40, 40), np.uint8)
                if isinstance(mask, str):
                    assert file["status"][row] == Status.UNREADABLE
                    assert file["error"].asstr()[row] == mask
                    assert file["mask_size"][row].tolist() == [0, 0]
                else:
                    height, width = mask.shape
                    canvas[:height, :width] = mask
                    assert file["status"][row] == (Status.OK if mask.any() else Status.FLAT)
                    assert file["error"].asstr()[row] == ""
                    assert file["mask_size"][row].tolist() == [height, width]
                    assert file["image_size"][row].tolist() == [2 * height, 2 * width]
                assert np.array_equal(file["masks"][row], canvas)
    assert rows == len(masks)


def test_gzip_needs_no_plugin(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=50, compression="gzip")
    program = (
        "import sys, h5py; f = h5py.File(sys.argv[1], 'r'); print(f['masks'][:].sum())\n"
        "assert 'hdf5plugin' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / shard_name(0)], capture_output=True, text=True
    )
    total = sum(int(mask.sum()) for mask in masks.values() if not isinstance(mask, str))
    assert done.stdout.strip() == str(total), done.stderr


def test_the_same_masks_are_the_same_file(tmp_path, write_shards, masks):
    """In any order of rows, in any process: the content's digest, if not the file's layout."""
    for name in ("a", "b"):
        write_shards(tmp_path / name, masks, size=50)
    a, b = (read_header(tmp_path / name / shard_name(0)) for name in ("a", "b"))
    assert a.content_digest == b.content_digest
    assert (tmp_path / "a" / shard_name(0)).read_bytes() == a.path.read_bytes()


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_chunks_are_hdf5s_own_bytes(tmp_path, compression):
    """Encoded chunks equal what h5py writes by itself, noise that does not shrink included."""
    rng = np.random.default_rng(0)
    encoder = ChunkEncoder(32, compression)
    for mask in (
        rng.integers(0, 256, (32, 32), np.uint8),
        np.full((32, 32), 7, np.uint8),
        np.ones((1, 1), np.uint8),
        rng.integers(0, 4, (20, 32), np.uint8),
    ):
        chunk = encoder.encode(mask)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            options = (
                hdf5plugin.Zstd(clevel=3)
                if compression == "zstd"
                else {"compression": "gzip", "compression_opts": 4}
            )
            masks = file.create_dataset(
                "m", (1, 32, 32), "u1", chunks=(1, 32, 32), fletcher32=True, **options
            )
            masks[0, : mask.shape[0], : mask.shape[1]] = mask
            file.flush()
            assert masks.id.read_direct_chunk((0, 0, 0)) == (chunk.filter_mask, chunk.data)
            masks.id.write_direct_chunk((0, 0, 0), chunk.data, chunk.filter_mask)
        with h5py.File(tmp_path / "a.h5", "r") as file:
            assert np.array_equal(file["m"][0, : mask.shape[0], : mask.shape[1]], mask)


def test_an_encoder_does_not_grow():
    rng = np.random.default_rng(0)
    encoder = pickle.loads(pickle.dumps(ChunkEncoder(64)))
    noisy = [rng.integers(0, rng.integers(2, 256), (64, 64), np.uint8) for _ in range(20)]
    for mask in noisy:
        encoder.encode(mask)
    size = len(encoder._file.id.get_file_image())
    for _ in range(20):
        for mask in noisy:
            encoder.encode(mask)
    assert len(encoder._file.id.get_file_image()) <= 2 * size


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError):
        ChunkEncoder(8).encode(np.zeros((9, 1), np.uint8))


def test_rows_are_written_once_and_all(tmp_path):
    chunk = ChunkEncoder(20).encode(np.ones((3, 3), np.uint8))
    with writer_of(tmp_path / shard_name(0), "ab") as writer:
        writer.write(0, chunk, (3, 3), (3, 3))
        with pytest.raises(AssertionError, match="twice"):
            writer.write(0, chunk, (3, 3), (3, 3))
        with pytest.raises(AssertionError):
            writer.write(1, None, status=Status.OK)
        with pytest.raises(AssertionError):
            writer.write(1, chunk, (3, 3), (3, 3), Status.FAILED)
        with pytest.raises(AssertionError, match="row 1 was not written"):
            writer.commit()
    assert not list(tmp_path.iterdir())


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), writer_of(tmp_path / shard_name(0), "ab"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_new_shard_removes_the_index_of_the_old(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    assert (tmp_path / "index.h5").exists()
    write_shards(tmp_path, masks, index=False, only=(1,))
    assert not (tmp_path / "index.h5").exists()


_SLOW_WRITER = """
import sys, time
import numpy as np
from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter
keys = Keys(f"{i:03d}" for i in range(100))
attributes = dict(method="rbd", parameters={}, software={}, listing_digest="x")
chunk = ChunkEncoder(20).encode(np.ones((9, 9), np.uint8))
with ShardWriter(sys.argv[1], 0, 1, keys, 20, "zstd", attributes) as writer:
    for row in range(100):
        writer.write(row, chunk, (9, 9), (9, 9))
        print(row, flush=True)
        time.sleep(0.005)
    writer.commit()
print("done", flush=True)
"""


@pytest.mark.parametrize("rows", [0, 57, 99])
def test_a_killed_writer_leaves_no_shard(tmp_path, rows):
    path = tmp_path / shard_name(0)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_WRITER, path], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.strip() == str(rows):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert shard_paths(tmp_path) == []
    assert not list(tmp_path.iterdir())


_FULL_DISK = """
import os, resource, sys
import numpy as np
from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
rng = np.random.default_rng(0)
keys = Keys(f"{i:03d}" for i in range(100))
attributes = dict(method="rbd", parameters={}, software={}, listing_digest="x")
encoder = ChunkEncoder(20)
try:
    with ShardWriter(sys.argv[1], 0, 1, keys, 20, "zstd", attributes) as writer:
        for row in range(100):
            mask = rng.integers(0, 256, (20, 20), np.uint8)
            writer.write(row, encoder.encode(mask), (20, 20), (20, 20))
        writer.commit()
    print("written")
except OSError as error:
    print(error.errno, error.filename, os.listdir(os.path.dirname(sys.argv[1])))
"""


@pytest.mark.parametrize("limit", [100, 45_000, 1_000_000])
def test_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path, limit):
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, tmp_path / shard_name(0), str(limit)],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    if limit == 1_000_000:
        assert done.stdout == "written\n"
    else:
        assert done.stdout == f"{errno.EFBIG} {tmp_path / shard_name(0)} []\n"


def test_names_sort_and_foreign_files_are_left_out(tmp_path):
    for name in (
        "shard-00010.h5",
        "shard-00002.h5",
        "index.h5",
        "shard-1.h5",
        ".shard-00003.h5.tmp",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in shard_paths(tmp_path)] == ["shard-00002.h5", "shard-00010.h5"]
    with pytest.raises(FileNotFoundError, match="missing"):
        shard_paths(tmp_path / "missing")


def test_further_attributes_are_kept(tmp_path):
    attributes = {**ATTRIBUTES, "parameters": {"b": [1, 2.5], "a": None}, "command": "é"}
    with ShardWriter(tmp_path / shard_name(0), 0, 1, Keys("a"), 8, "gzip", attributes) as writer:
        writer.write(0, None, status=Status.FAILED, error="no\0pe \udcff")
        writer.commit()
    with h5py.File(tmp_path / shard_name(0), "r") as file:
        assert file.attrs["command"] == "é"
        assert json.loads(file.attrs["parameters"]) == {"a": None, "b": [1, 2.5]}
        assert file["error"].asstr()[0] == "no pe \\udcff"


_INTERRUPTED_WRITER = """
import signal, sys
import numpy as np
from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
keys = Keys(f"{i:05d}" for i in range(100_000))
attributes = dict(method="rbd", parameters={}, software={}, listing_digest="x")
chunk = ChunkEncoder(8).encode(np.zeros((8, 8), np.uint8))
try:
    with ShardWriter(sys.argv[1], 0, 1, keys, 8, "zstd", attributes) as writer:
        signal.setitimer(signal.ITIMER_REAL, 0.03 + 0.037 * int(sys.argv[2]))
        for row in range(len(keys)):
            writer.write(row, chunk, (8, 8), (8, 8))
        writer.commit()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("moment", range(3))
def test_a_writer_that_is_interrupted_ends_clean(tmp_path, moment):
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_WRITER, tmp_path / "shard-00000.h5", str(moment)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    assert not list(tmp_path.iterdir())

"""The reader: every mask by row and by key, in any process."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pickle
import threading

import h5py
import numpy as np
import pytest
import zstandard

from data.errors import UserError
from data.masks.format import Status, shard_name
from data.masks.read import MaskShards


def check(shards: MaskShards, masks: dict) -> None:
    assert len(shards) == len(masks)
    for row, key in enumerate(shards.keys):
        assert shards.find(key) == row and key in shards
        expected = masks[key]
        if isinstance(expected, str):
            assert shards.read(key).shape == (0, 0) == shards.mask_size(key)
            assert shards.status(row) is Status.UNREADABLE and shards.error(row) == expected
            continue
        for address in (row, key, row - len(shards), np.int64(row)):
            mask = shards.read(address)
            assert mask.dtype == np.uint8 and np.array_equal(mask, expected)
        assert shards.mask_size(row) == expected.shape
        assert shards.image_size(key) == tuple(2 * side for side in expected.shape)
        assert shards.status(key) is (Status.OK if expected.any() else Status.FLAT)
        assert shards.error(row) == ""


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("compression", ["zstd", "gzip"])
@pytest.mark.parametrize("max_open", [1, 64])
def test_reads_every_mask(tmp_path, write_shards, masks, index, compression, max_open):
    write_shards(tmp_path, masks, size=3, compression=compression, index=index)
    with MaskShards(tmp_path, max_open) as shards:
        check(shards, masks)
        assert len(shards._open_shards) == min(max_open, 4)
    assert not shards._open_shards
    check(shards, masks)  # closed is not gone


def test_what_the_set_is(tmp_path, write_shards, masks):
    keys = write_shards(tmp_path, masks, size=3)
    shards = MaskShards(str(tmp_path))
    assert (shards.method, shards.parameters) == ("rbd", {"max_side": 40})
    assert shards.software == {"dilo": "0"}
    assert shards.shards == [tmp_path / shard_name(i) for i in range(4)]
    assert shards.shard_count == 4 and shards.listing_digest == keys.digest()
    assert shards.statuses().tolist() == [shards.status(row) for row in range(11)]


def test_what_is_not_there(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    shards = MaskShards(tmp_path)
    assert "nothing" not in shards and 3 not in shards
    with pytest.raises(KeyError):
        shards.read("nothing")
    for row in (11, -12):
        with pytest.raises(IndexError):
            shards.read(row)
    with pytest.raises(UserError, match="no mask shards"):
        (tmp_path / "empty").mkdir()
        MaskShards(tmp_path / "empty")


def test_opens_nothing_before_it_reads(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    shards = MaskShards(tmp_path)
    shards.find("m.jpg")
    shards.image_size("m.jpg")
    assert not shards._open_shards


def test_a_pickle_is_small_and_reads(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    shards = MaskShards(tmp_path, max_open=3)
    shards.read(0)
    frozen = pickle.dumps(shards)
    assert len(frozen) < 500
    thawed = pickle.loads(frozen)
    assert thawed.max_open == 3
    check(thawed, masks)


class Dataset:
    def __init__(self, shards):
        self.shards = shards

    def __len__(self):
        return len(self.shards)

    def __getitem__(self, row):
        return row, os.getpid(), self.shards.read(row)


@pytest.mark.parametrize("index", [True, False])
def test_loader_workers_read_after_the_parent_did(tmp_path, write_shards, masks, index):
    from torch.utils.data import DataLoader

    write_shards(tmp_path, masks, size=3, index=index)
    shards = MaskShards(tmp_path)
    check(shards, masks)  # the parent's files are open when the workers are forked
    fork = multiprocessing.get_context("fork")
    seen = list(
        DataLoader(Dataset(shards), num_workers=2, batch_size=None, multiprocessing_context=fork)
    )
    assert [row for row, _, _ in seen] == list(range(len(masks)))
    assert len({process for _, process, _ in seen}) == 2
    for row, _, mask in seen:
        expected = masks[shards.keys[row]]
        if not isinstance(expected, str):
            assert np.array_equal(mask, expected)
    check(shards, masks)


@pytest.mark.parametrize("index", [True, False])
def test_spawned_processes_read(tmp_path, write_shards, masks, index):
    write_shards(tmp_path, masks, size=3, index=index)
    shards = MaskShards(tmp_path)
    check(shards, masks)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        found = list(pool.map(shards.read, range(len(shards))))
    for key, mask in zip(shards.keys, found, strict=True):
        if not isinstance(masks[key], str):
            assert np.array_equal(mask, masks[key])


def test_threads_share_a_reader(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=3)
    shards = MaskShards(tmp_path, max_open=1)  # each read closes another's shard
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for key in map(str, rng.choice(list(masks), 200)):
            mask = shards.read(key)
            if not isinstance(masks[key], str) and not np.array_equal(mask, masks[key]):
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_a_read_does_not_hang(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    shards = MaskShards(tmp_path)
    with shards._own_lock():  # as another thread of the parent would hold it
        context = multiprocessing.get_context("fork")
        process = context.Process(target=check, args=(shards, masks))
        process.start()
        process.join(20)
    assert process.exitcode == 0


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_damaged_mask_is_a_sentence(tmp_path, write_shards, masks, compression):
    """What cannot be decompressed; what can, and is wrong, is for `mask-shards verify`."""
    keys = write_shards(tmp_path, masks, size=50, compression=compression)
    path = tmp_path / shard_name(0)
    row = keys.find("a/001.JPEG")
    with h5py.File(path, "r") as file:
        place = file["masks"].id.get_chunk_info_by_coord((row, 0, 0))
    raw = bytearray(path.read_bytes())
    raw[place.byte_offset] ^= 0x10
    path.write_bytes(raw)
    shards = MaskShards(tmp_path)
    with pytest.raises(UserError, match=r"mask of 'a/001.JPEG' in '.*shard-00000.h5' cannot be"):
        shards.read(row)
    assert np.array_equal(shards.read("a/003.JPEG"), masks["a/003.JPEG"])


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [(zstandard.compress(bytes(10**6)) + b"1234", "checksum differs"), (b"123", "checksum")],
)
def test_what_cannot_be_a_mask_is_not_unpacked(tmp_path, write_shards, masks, stored, sentence):
    keys = write_shards(tmp_path, masks, size=50, index=False)
    with h5py.File(tmp_path / shard_name(0), "r+") as file:
        file["masks"].id.write_direct_chunk((keys.find("a/001.JPEG"), 0, 0), stored)
    with pytest.raises(UserError, match=sentence):
        MaskShards(tmp_path).read("a/001.JPEG")


def test_masks_as_dilo_writes_them_are_what_hdf5_reads(tmp_path, write_shards):
    """Of all sizes of chunks, and the one that does not shrink."""
    rng = np.random.default_rng(0)
    masks = {
        f"{levels:03}.jpg": rng.integers(0, levels, (40, 40 - levels % 7), np.uint8)
        for levels in (1, 2, 3, 5, 17, 60, 256)
    }
    for compression in ("zstd", "gzip"):
        write_shards(tmp_path, masks, size=50, compression=compression)
        with h5py.File(tmp_path / shard_name(0)) as file:
            whole = file["masks"][:]
        for row, mask in enumerate(MaskShards(tmp_path).read(row) for row in range(len(masks))):
            assert np.array_equal(mask, whole[row, :, : mask.shape[1]])


def test_a_shard_cut_short_after_it_was_opened_is_a_sentence(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=50)
    shards = MaskShards(tmp_path)
    shards.read("a/001.JPEG")
    os.truncate(tmp_path / shard_name(0), 100)
    with pytest.raises(UserError, match="the file is too short"):
        shards.read("a/001.JPEG")


def test_a_shard_exchanged_behind_the_index_is_noticed(tmp_path, write_shards, masks):
    """One of the same size, so that only its digest tells."""
    same = {f"{i}.jpg": np.full((4, 4), 1, np.uint8) for i in range(4)}
    write_shards(tmp_path, same, size=2)
    index = (tmp_path / "index.h5").read_bytes()
    size = (tmp_path / shard_name(0)).stat().st_size
    write_shards(tmp_path, {key: mask * 2 for key, mask in same.items()}, size=2, index=False)
    assert (tmp_path / shard_name(0)).stat().st_size == size
    (tmp_path / "index.h5").write_bytes(index)
    with pytest.raises(UserError, match=r"not the shard that index.h5 describes"):
        MaskShards(tmp_path).read(0)


def open_files(folder):
    """Return the shards in a folder that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{folder}/shard-")]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")
def test_no_more_files_are_open_than_asked(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=1)
    shards = MaskShards(tmp_path, max_open=3)
    for _ in range(3):
        check(shards, masks)
        assert len(open_files(tmp_path)) == 3
    shards.close()
    assert not open_files(tmp_path)
    check(shards, masks)
    del shards
    assert not open_files(tmp_path)


def test_shards_of_different_canvas_and_compression(tmp_path, write_shards):
    """As with native sizes: each shard has the canvas that its masks need."""
    rng = np.random.default_rng(0)
    masks = {f"{i}.jpg": rng.integers(0, 256, (5 * i, 4), np.uint8) for i in range(1, 9)}
    for number, options in enumerate(
        ({"canvas": 10}, {"canvas": 20}, {"canvas": 30, "compression": "gzip"}, {"canvas": 40})
    ):
        options = {**options, "index": False, "parameters": {"max_side": 0}}
        write_shards(tmp_path, masks, size=2, only=(number,), **options)
    shards = MaskShards(tmp_path)
    for _ in range(2):
        check(shards, masks)


def test_a_run_half_way(tmp_path, write_shards, masks):
    keys = write_shards(tmp_path, masks, size=3, only=(0, 2), index=False)
    with pytest.raises(UserError, match=r"2 of 4 shards, missing: 1, 3"):
        MaskShards(tmp_path)
    shards = MaskShards(tmp_path, partial=True)
    there = [*keys[:3], *keys[6:9]]
    check(shards, {key: masks[key] for key in there})
    assert shards.shard_count == 4 and len(shards.shards) == 2
    check(pickle.loads(pickle.dumps(shards)), {key: masks[key] for key in there})


def test_beside_an_index_that_is_open_with_locks(tmp_path, write_shards, masks):
    """A notebook may look at the virtual dataset while a reader reads."""
    write_shards(tmp_path, masks)
    with h5py.File(tmp_path / "index.h5", "r") as file:
        assert file["masks"][:].any()
        check(MaskShards(tmp_path), masks)


def test_a_read_only_folder(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    for path in tmp_path.iterdir():
        path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        check(MaskShards(tmp_path), masks)
    finally:
        tmp_path.chmod(0o755)

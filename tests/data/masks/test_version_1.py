"""Shards and an index of format version 1, as the program wrote them at first, stay readable.

They were written with a hash table of keys in the index; both files are kept beside this test.
"""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter, Status, shard_name, shard_paths, status_of
from data.masks.index import build_index, load_index
from data.masks.read import MaskShards
from data.masks.verify import verify

OLD = Path(__file__).with_name("version_1")


def masks() -> dict[str, np.ndarray | None]:
    y, x = np.mgrid[:40, :40]
    made = {f"a/{i}.jpg": ((x * (i + 1) + y) % 256)[: 20 + i, : 30 + i] for i in range(5)}
    return {
        **{key: mask.astype(np.uint8) for key, mask in made.items()},
        "b/é.png": np.zeros((9, 12), np.uint8),
        "c.png": None,
    }


@pytest.mark.parametrize("index", ["old", "none", "new"])
def test_old_shards_are_read(tmp_path, index):
    out = shutil.copytree(OLD, tmp_path / "out")
    if index == "none":
        (out / "index.h5").unlink()
    if index == "new":
        build_index(out)
        assert load_index(out) is not None
    read = MaskShards(out)
    assert list(read.keys) == sorted(masks())
    for key, mask in masks().items():
        assert read.find(key) == list(read.keys).index(key)
        if mask is None:
            assert read.status(key) == Status.UNREADABLE and read.error(key) == "empty file"
        else:
            assert np.array_equal(read.read(key), mask)
            assert read.image_size(key) == (2 * mask.shape[0], 2 * mask.shape[1])
    report = verify(out)
    assert report.sound
    assert any("older version" in note for note in report.notes) == (index == "old")


def test_the_old_index_has_no_digest_and_is_not_used():
    assert load_index(OLD) is None


def test_old_and_new_shards_are_one_set(tmp_path):
    """As where a run that an older version began is gone on with."""
    write_again(tmp_path, only=(1,))
    shutil.copy(OLD / shard_name(0), tmp_path)
    assert verify(tmp_path).sound
    build_index(tmp_path)
    assert verify(tmp_path).sound
    for key, mask in masks().items():
        if mask is not None:
            assert np.array_equal(MaskShards(tmp_path).read(key), mask)


def test_today_s_shards_hold_the_same(tmp_path):
    """Attributes, datasets, types, filters and stored bytes are those of the old shards.

    There are digests more.
    """
    write_again(tmp_path, only=(0, 1))
    for number, old in enumerate(shard_paths(OLD)):
        with h5py.File(tmp_path / shard_name(number)) as new, h5py.File(old) as before:
            attributes = dict(new.attrs)
            del attributes["header_digest"], attributes["error_digest"]
            assert attributes == {**before.attrs, "format_version": 2}
            assert set(new) == {*before, "checks"}
            for name in before:
                assert new[name].id.get_type() == before[name].id.get_type()
                assert new[name].shape == before[name].shape
                assert np.array_equal(new[name][:], before[name][:])
            assert new["masks"].chunks == before["masks"].chunks
            properties = [file["masks"].id.get_create_plist() for file in (new, before)]
            filters = [[p.get_filter(i) for i in range(p.get_nfilters())] for p in properties]
            assert filters[0] == filters[1]
            for row in range(len(new["keys"]) - (number == 1)):
                chunks = [file["masks"].id.read_direct_chunk((row, 0, 0)) for file in (new, before)]
                assert chunks[0] == chunks[1]


def write_again(folder, only):
    """Write the old shards as they are written today."""
    keys, encoder = Keys(masks()), ChunkEncoder(40)
    for number in only:
        path, part = folder / shard_name(number), keys[4 * number : 4 * number + 4]
        attributes = {
            "method": "rbd",
            "parameters": {"max_side": 40},
            "software": {"dilo": "0"},
            "listing_digest": keys.digest(),
        }
        with ShardWriter(path, number, 2, part, 40, "zstd", attributes) as writer:
            for row, key in enumerate(part):
                mask = masks()[key]
                if mask is None:
                    writer.write(row, None, status=Status.UNREADABLE, error="empty file")
                else:
                    size = (2 * mask.shape[0], 2 * mask.shape[1])
                    writer.write(row, encoder.encode(mask), mask.shape, size, status_of(mask))
            writer.commit()

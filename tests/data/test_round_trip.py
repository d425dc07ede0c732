"""A quick look at the whole: write shards, index them, read them back."""

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from data.index import build_index, load_index
from data.keys import Keys
from data.mask_shards import MaskShards
from data.shards import ChunkEncoder, ShardWriter, Status, shard_name

KEYS = Keys([f"a/{i:03d} é.JPEG" for i in range(10)] + ["z\udcff\n.png"])


def write_set(folder, compression="zstd", canvas=40, size=4):
    rng = np.random.default_rng(0)
    masks = {}
    count = -(-len(KEYS) // size)
    encoder = ChunkEncoder(canvas, compression)
    for number in range(count):
        part = KEYS[number * size : (number + 1) * size]
        attributes = dict(
            method="rbd",
            parameters={"max_side": canvas},
            software={"dilo": "0"},
            listing_digest=KEYS.digest(),
        )
        path = folder / shard_name(number)
        with ShardWriter(path, number, count, part, canvas, compression, attributes) as writer:
            for row, key in reversed(list(enumerate(part))):
                if key.endswith("003 é.JPEG"):
                    writer.write(row, None, status=Status.UNREADABLE, error="empty file")
                    continue
                h, w = rng.integers(1, canvas + 1, 2)
                masks[key] = rng.integers(0, 256, (h, w), np.uint8)
                writer.write(row, encoder.encode(masks[key]), (h, w), (2 * h, 2 * w), Status.OK, "")
            writer.commit()
    return masks


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
@pytest.mark.parametrize("indexed", [False, True])
def test_round_trip(tmp_path, compression, indexed):
    masks = write_set(tmp_path, compression)
    if indexed:
        build_index(tmp_path)
        assert load_index(tmp_path) is not None
        with h5py.File(tmp_path / "index.h5") as f:
            assert f["keys"].asstr(errors="surrogateescape")[:].tolist() == list(KEYS)
            for row, key in enumerate(KEYS):
                h, w = f["mask_size"][row]
                if key in masks:
                    assert np.array_equal(f["masks"][row, :h, :w], masks[key])
                assert f["masks"][row, h:].sum() == 0
    shards = MaskShards(tmp_path)
    assert list(shards.keys) == list(KEYS)
    for row, key in enumerate(KEYS):
        assert shards.find(key) == row
        mask = shards.read(key)
        if key in masks:
            assert np.array_equal(mask, masks[key])
            assert shards.status(row) == Status.OK
            assert shards.error(row) == ""
            assert shards.image_size(row) == tuple(2 * s for s in mask.shape)
        else:
            assert mask.shape == (0, 0) and shards.error(row) == "empty file"
    assert "nothing" not in shards
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []

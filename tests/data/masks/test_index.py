"""index.h5 shows all shards as one, and is used only while it fits them."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from data.errors import UserError
from data.keys import Keys
from data.masks.format import shard_name
from data.masks.index import build_index, load_index, scan


def test_one_virtual_dataset_over_all_shards(tmp_path, write_shards, masks):
    keys = write_shards(tmp_path / "a", masks, size=3)
    (tmp_path / "a").rename(tmp_path / "moved")  # shards are named relative to the index
    with h5py.File(tmp_path / "moved" / "index.h5", "r") as file:
        assert file["masks"].is_virtual and file["masks"].shape == (11, 40, 40)
        assert file["keys"][:].tolist() == list(keys.iter_raw())
        for row, key in enumerate(keys):
            height, width = file["mask_size"][row]
            if isinstance(masks[key], str):
                assert file["error"].asstr()[row] == masks[key]
                assert not file["masks"][row].any()
            else:
                assert np.array_equal(file["masks"][row, :height, :width], masks[key])
        assert file["status"][:].tolist() == file["table/status"][:].tolist()
        assert np.array_equal(file["image_size"][:], 2 * file["mask_size"][:])


def test_shards_of_different_canvases(tmp_path, write_shards):
    """As with native sizes: the virtual dataset is as large as the largest."""
    masks = {f"{i}.jpg": np.full((10 * i, 5), i, np.uint8) for i in range(1, 5)}
    keys = Keys(masks)
    parameters = {"max_side": 0}
    for number, canvas in enumerate((20, 40)):
        write_shards(tmp_path, masks, 2, canvas, only=(number,), index=False, parameters=parameters)
    build_index(tmp_path)
    with h5py.File(tmp_path / "index.h5", "r") as file:
        assert file["masks"].shape == (4, 40, 40)
        for row, key in enumerate(keys):
            expected = np.zeros((40, 40), np.uint8)
            expected[: masks[key].shape[0], :5] = masks[key]
            assert np.array_equal(file["masks"][row], expected)


def test_the_table_is_what_a_scan_finds(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    mapped, scanned = load_index(tmp_path), scan(tmp_path)
    arrays = ("status", "mask_size", "image_size", "first_rows")
    for name in (*arrays, "chunk_offset", "chunk_bytes", "chunk_filters"):
        assert np.array_equal(getattr(mapped, name), getattr(scanned, name)), name
    for name in ("keys", "method", "parameters", "software", "names", "content_digests"):
        assert getattr(mapped, name) == getattr(scanned, name), name
    assert mapped.equals(scanned)
    assert not mapped.equals(replace(scanned, status=scanned.status + 1))
    assert not mapped.equals(replace(scanned, method="mc"))


def test_the_table_is_mapped_not_read(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    array = load_index(tmp_path).keys.array
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)


def test_no_index_where_it_does_not_fit(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    index = tmp_path / "index.h5"
    assert load_index(tmp_path / "missing") is None

    old = index.read_bytes()
    noise = np.random.default_rng(1).integers(0, 256, (8, 40, 40), np.uint8)
    more = {**masks, **{f"zz{i}.jpg": mask for i, mask in enumerate(noise)}}
    write_shards(tmp_path, more, index=False)
    assert load_index(tmp_path) is None  # removed by the writer
    index.write_bytes(old)
    assert load_index(tmp_path) is None  # of other shards

    build_index(tmp_path)
    assert len(load_index(tmp_path).keys) == len(more)
    good = index.read_bytes()
    index.write_bytes(good[: len(good) // 2])
    assert load_index(tmp_path) is None
    index.write_bytes(good)
    with h5py.File(index, "r+") as file:
        file.attrs["complete"] = np.uint8(0)
    assert load_index(tmp_path) is None
    index.write_bytes(good)
    (tmp_path / shard_name(0)).unlink()
    assert load_index(tmp_path) is None


def test_sets_that_are_not_whole(tmp_path, write_shards, masks):
    keys = write_shards(tmp_path, masks, size=3)
    with pytest.raises(UserError, match="there are no mask shards in"):
        (tmp_path / "empty").mkdir()
        scan(tmp_path / "empty")
    shutil.copy(tmp_path / shard_name(1), tmp_path / "copy")
    (tmp_path / shard_name(1)).unlink()
    with pytest.raises(UserError, match=r"has 3 of 4 shards, missing: 1; run"):
        build_index(tmp_path)
    assert list(scan(tmp_path, partial=True).keys) == [*keys[:3], *keys[6:]]
    assert scan(tmp_path, partial=True).shard_count == 4
    shutil.copy(tmp_path / "copy", tmp_path / shard_name(7))
    with pytest.raises(UserError, match=r"is shard 1 of its set; give it back its name"):
        build_index(tmp_path)


@pytest.mark.parametrize("what", ["method", "canvas", "listing"])
def test_shards_of_different_sets(tmp_path, write_shards, masks, what):
    write_shards(tmp_path, masks)
    other = {"method": {"method": "mc"}, "canvas": {"canvas": 50}, "listing": {}}[what]
    if what == "listing":
        masks = {**masks, "zz.jpg": np.ones((3, 3), np.uint8)}
    write_shards(tmp_path, masks, index=False, only=(1,), **other)
    differ = {"method": "method", "canvas": "parameters", "listing": "listing digest"}[what]
    with pytest.raises(UserError, match=rf"not of one set \(they differ in {differ}\)"):
        build_index(tmp_path)

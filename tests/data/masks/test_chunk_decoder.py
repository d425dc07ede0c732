"""A decoder undoes what an encoder did, and notices damage."""

import h5py
import numpy as np
import pytest
import zstandard

from data.masks.chunk_decoder import ChunkDecoder, filters_of, fletcher32
from data.masks.format import create_masks
from data.masks.write import ChunkEncoder


@pytest.fixture
def datasets(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        found = {}
        for name in ("zstd", "gzip"):
            found[name] = create_masks(file.create_group(name), 3, 32, name)
        found["small"] = create_masks(file.create_group("small"), 3, 16, "zstd")
        yield found


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_decodes_what_was_encoded(datasets, compression):
    rng = np.random.default_rng(0)
    encoder, decoder = ChunkEncoder(32, compression), ChunkDecoder(datasets[compression])
    for levels in (1, 2, 256):  # the last does not shrink: a filter may be skipped
        for shape in ((32, 32), (1, 1), (7, 32), (32, 7)):
            mask = rng.integers(0, levels, shape, np.uint8)
            chunk = encoder.encode(mask)
            found = np.full(shape, 99, np.uint8)
            decoder.decode(chunk.data, chunk.filter_mask, found)
            assert np.array_equal(found, mask)


def test_fletcher_is_hdf5s():
    def plain(data: bytes) -> int:  # of HDF5's file format specification, word by word
        low = high = 0
        for at in range(0, len(data), 2):
            low += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
            low = (low & 0xFFFF) + (low >> 16)
            high += low
            high = (high & 0xFFFF) + (high >> 16)
        return high << 16 | low

    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 7, 64, 4097, 16383, 16384, 16385, 16386, 32768, 100_000):
        for data in (rng.bytes(size), bytes(size), b"\xff" * size, b"\0" * size + b"\1"):
            assert fletcher32(data) == fletcher32(memoryview(data)) == plain(data)
    data = rng.bytes(3_000_001)  # the sums of so many words are beyond float64's whole numbers
    assert fletcher32(data) == plain(data)


def test_masks_as_dilo_writes_them_do_not_pass_through_hdf5(datasets):
    rng = np.random.default_rng(0)
    encoder, decoder = ChunkEncoder(32), ChunkDecoder(datasets["zstd"])
    decoder._masks = None
    lengths = set()
    for levels in range(2, 40):
        mask, found = rng.integers(0, levels, (20, 32), np.uint8), np.empty((20, 32), np.uint8)
        data, skipped = encoder.encode(mask)
        lengths.add(len(data) % 2)
        assert skipped == 0
        decoder.decode(data, skipped, found)
        assert np.array_equal(found, mask)
    assert lengths == {0, 1}


def test_a_frame_larger_than_the_canvas_is_not_unpacked(datasets):
    bomb = zstandard.compress(bytes(10**6))
    data = bomb + fletcher32(bomb).to_bytes(4, "little")
    decoder, found = ChunkDecoder(datasets["zstd"]), np.empty((32, 32), np.uint8)
    with pytest.raises(ValueError, match="1000000 pixels"):
        decoder.decode(data, 0, found)


def test_outlives_its_dataset(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        decoder = ChunkDecoder(create_masks(file, 3, 32, "zstd"))
    mask, found = np.eye(32, dtype=np.uint8), np.empty((32, 32), np.uint8)
    decoder.decode(*ChunkEncoder(32).encode(mask), found)
    assert np.array_equal(found, mask)


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_damage_is_an_error_and_the_next_mask_is_sound(datasets, compression):
    mask = np.random.default_rng(0).integers(0, 9, (32, 32), np.uint8)
    chunk = ChunkEncoder(32, compression).encode(mask)
    decoder, found = ChunkDecoder(datasets[compression]), np.empty((32, 32), np.uint8)
    for place in range(0, len(chunk.data), 17):
        damaged = bytearray(chunk.data)
        damaged[place] ^= 4
        with pytest.raises((OSError, RuntimeError)):
            decoder.decode(bytes(damaged), chunk.filter_mask, found)
        decoder.decode(chunk.data, chunk.filter_mask, found)
        assert np.array_equal(found, mask)
    for length in (0, 3, len(chunk.data) // 2):
        with pytest.raises((OSError, RuntimeError, ValueError)):
            decoder.decode(chunk.data[:length], chunk.filter_mask, found)


def test_what_can_share_a_decoder(datasets):
    assert len({filters_of(masks) for masks in datasets.values()}) == 3
    zstd = datasets["zstd"]
    assert filters_of(zstd) == filters_of(create_masks(zstd.file.create_group("b"), 9, 32, "zstd"))

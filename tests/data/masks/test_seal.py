"""A sealed file is compared before HDF5 opens it, which may crash or hang on what is damaged."""

import hashlib
import struct

import h5py
import numpy as np
import pytest

from data.errors import UserError
from data.masks.format import shard_name
from data.masks.index import load_index
from data.masks.opening import broken_seal
from data.masks.read import MaskShards
from data.masks.verify import verify


@pytest.fixture
def shard(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=50)
    return tmp_path / shard_name(0)


def chunks_of(path):
    spans = []
    with h5py.File(path) as file:
        file["masks"].id.chunk_iter(lambda chunk: spans.append((chunk.byte_offset, chunk.size)))
    return spans


def test_the_seal_is_as_the_page_says(shard):
    raw = shard.read_bytes()
    (end,) = struct.unpack_from("<Q", raw, 28)
    count, digest, magic = struct.unpack("<Q32s8s", raw[-48:])
    table = raw[end : end + 16 * count]
    assert magic == b"DiLoSeal" and len(raw) == end + 16 * count + 48
    stretches = list(struct.iter_unpack("<QQ", table))
    total = hashlib.sha256(table)
    covered = np.zeros(end, bool)
    for offset, length in stretches:
        total.update(raw[offset : offset + length])
        covered[offset : offset + length] = True
    assert total.digest() == digest
    for offset, length in chunks_of(shard):
        assert not covered[offset : offset + length].any()
        covered[offset : offset + length] = True
    assert covered.all()


def test_no_bit_outside_of_the_masks_changes_unseen(shard):
    raw, spans = shard.read_bytes(), chunks_of(shard)
    (end,) = struct.unpack_from("<Q", raw, 28)
    rng = np.random.default_rng(1)
    for byte in range(48, len(raw), 29):  # before it is HDF5's superblock, with its own checksum
        if any(offset <= byte < offset + length for offset, length in spans):
            continue
        changed = bytearray(raw)
        changed[byte] ^= 1 << int(rng.integers(8))
        shard.write_bytes(changed)
        assert "its bytes" in broken_seal(shard) or (byte >= end and "seal" in broken_seal(shard))
        with pytest.raises(UserError, match="is damaged"):
            MaskShards(shard.parent).read("a/000.JPEG")


@pytest.mark.parametrize("name", [shard_name(0), "index.h5"])
def test_zeros_in_the_heap_of_texts_hang_nobody(shard, name):
    """HDF5 never ends on them; `info` opens both files."""
    path = shard.with_name(name)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"GCOL") + 16
    raw[start : start + 2000] = bytes(2000)
    path.write_bytes(raw)
    assert broken_seal(path) == "its bytes are not those it was made with"
    if name == "index.h5":
        assert load_index(path.parent) is None and len(MaskShards(path.parent)) == 11
    else:
        with pytest.raises(UserError, match="its bytes are not those"):
            MaskShards(path.parent).read(0)
    report = verify(path.parent)
    assert name in report.problems[0]


def test_a_seal_that_is_cut_is_damaged_and_one_that_hdf5_took_off_is_none(shard):
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-20])
    assert broken_seal(shard) == "its seal is damaged"
    shard.write_bytes(raw)
    with h5py.File(shard, "r+"):
        pass
    assert shard.stat().st_size < len(raw) and broken_seal(shard) is None
    assert MaskShards(shard.parent).read("a/000.JPEG").tolist() == [[9]]

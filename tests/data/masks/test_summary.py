"""The figures of `info` are those of the masks."""

from collections import Counter

import numpy as np
import pytest

from data.errors import UserError
from data.masks.format import shard_name
from data.masks.read import MaskShards
from data.masks.summary import as_table, summarise, why_poor


def test_figures(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=3)
    shards = MaskShards(tmp_path)
    summary = summarise(shards)
    there = [mask for mask in masks.values() if not isinstance(mask, str)]
    assert summary["counts"] == {"ok": 9, "flat": 1, "unreadable": 1, "failed": 0}
    assert summary["coverage"] == pytest.approx(np.mean([mask.mean() / 255 for mask in there]))
    sides = sorted(max(mask.shape) for mask in there)
    assert summary["mask_sizes"] == (sides[0], int(np.median(sides)), sides[-1])
    assert summary["image_sizes"] == (2 * sides[0], int(2 * np.median(sides)), 2 * sides[-1])
    assert summary["failures"] == [("m.jpg", "unreadable", "empty file")]
    assert summary["file_bytes"] == sum(path.stat().st_size for path in shards.shards)
    assert 0 < summary["stored_bytes"] < summary["file_bytes"]
    poor = {
        key: why
        for key, mask in masks.items()
        if not isinstance(mask, str)
        if (why := why_poor(mask))
    }
    assert summary["poor"] == dict(Counter(poor.values()))
    assert dict(summary["poor_examples"]) == poor and poor["a/002.JPEG"] == "nearly empty"
    table = dict(as_table(shards, summary))
    assert table["too poor to paste"].startswith(f"{len(poor) / 10:.1%} (")
    assert table["bytes per mask"] == f"{summary['stored_bytes'] / 10:,.0f}"
    assert summarise(shards, sample=3)["sampled"] == 3
    assert table["images, flat"] == "1"


def test_nothing_but_failures(tmp_path, write_shards):
    write_shards(tmp_path, {"a.jpg": "empty file"})
    shards = MaskShards(tmp_path)
    summary = summarise(shards)
    assert summary["coverage"] is None
    assert dict(as_table(shards, summary))["images, unreadable"] == "1"


def test_a_shard_damaged_behind_the_index_is_a_sentence(tmp_path, write_shards, masks):
    """In the list of where its masks are, which the index makes needless."""
    write_shards(tmp_path, masks, size=50)
    shards = MaskShards(tmp_path)
    path = tmp_path / shard_name(0)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"FAHD")
    raw[start + 8] ^= 4
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"shard-00000\.h5' is damaged"):
        summarise(shards)

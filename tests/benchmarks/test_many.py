"""Many files of few photographs: each link has its photograph's mask."""

import os

import numpy as np
import pytest

from benchmarks.training.data import SIZE, make_photographs
from benchmarks.training.made import files_for
from benchmarks.training.many import link_images, link_masks, original_masks, square_mask
from data.images.listing import list_images
from data.masks.format import ChunkEncoder, ShardWriter, shard_name
from data.masks.index import build_index
from data.masks.read import MaskShards
from pretrain.views.loader import build_loader
from pretrain.views.mask_rows import MISSING
from pretrain.views.recipes import PasteSettings, ViewRecipe

ATTRIBUTES = {"method": "made", "parameters": {}, "software": {}}


def write_masks(folder, keys) -> list[np.ndarray]:
    """Write masks of several sizes for these images; return them."""
    rng, encoder = np.random.default_rng(0), ChunkEncoder(64)
    masks = [rng.integers(0, 256, (40 + 3 * row, 60), np.uint8) for row in range(len(keys))]
    folder.mkdir()
    attributes = ATTRIBUTES | {"listing_digest": keys.digest()}
    with ShardWriter(folder / shard_name(0), 0, 1, keys, 64, "zstd", attributes) as writer:
        for row, mask in enumerate(masks):
            writer.write(row, encoder.encode(mask), mask.shape, SIZE)
        writer.commit()
    build_index(folder)
    return masks


def test_links_have_the_masks_of_their_photographs(tmp_path):
    few = tmp_path / "few"
    make_photographs(few, 6)
    masks = write_masks(tmp_path / "few-masks", list_images(few))
    keys = link_images(tmp_path / "many", few, 50, 4)
    with MaskShards(tmp_path / "few-masks") as shards:
        link_masks(tmp_path / "masks", keys, *original_masks(shards))
    assert len(keys) == 50 and len({key.split("/")[0] for key in keys}) == 4
    originals = {(few / key).stat().st_ino: row for row, key in enumerate(list_images(few))}
    linked = MaskShards(tmp_path / "masks")
    for key in keys:
        row = originals[os.stat(tmp_path / "many" / key).st_ino]
        np.testing.assert_array_equal(linked.read(key), masks[row])
        assert linked.image_size(key) == SIZE
    loader = build_loader(  # refuses images without a mask
        tmp_path / "many",
        tmp_path / "masks",
        recipe=ViewRecipe(image_size=32),
        paste=PasteSettings(),
        batch_size=25,
    )
    assert sum(len(batch["index"]) for batch in loader) == 50
    assert loader.masks.count(MISSING) == 0


def test_one_mask_serves_all(tmp_path):
    make_photographs(tmp_path / "few", 2)
    keys = link_images(tmp_path / "many", tmp_path / "few", 9, 3)
    link_masks(tmp_path / "masks", keys, *square_mask(SIZE))
    shards = MaskShards(tmp_path / "masks")
    assert len(shards) == 9 and shards.read(8).max() == 255


@pytest.mark.parametrize(
    "batch, workers, processes, batches",
    [(64, 2, 2, 128), (256, 16, 1, 128), (256, 4, 0, 64), (256, 200, 8, 512)],
)
def test_epochs_are_long_beside_their_beginning(batch, workers, processes, batches):
    assert files_for(batch, workers, processes) == batches * batch

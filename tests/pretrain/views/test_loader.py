"""Batches: the same for any number of workers, from any step; and what the user did wrong."""

from __future__ import annotations

import pickle
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import UserError
from data.images.decode import open_image
from data.images.listing import list_images
from data.masks import MaskedImages
from data.masks.format import Status
from data.masks.read import MaskShards
from evaluate.masks import open_masks
from pretrain.views.draws import COLUMN
from pretrain.views.loader import build_loader, epoch_order
from pretrain.views.mask_rows import FLAT, MISSING, POOR, match_masks
from pretrain.views.recipes import PasteSettings, ViewRecipe
from tests.pretrain.mask_samples import soft_mask, write_masks

RECIPE = ViewRecipe(views=2, image_size=32)


def batches(loader):
    with_copies = []
    for batch in loader:
        with_copies.append(
            {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        )
    loader.close()
    return with_copies


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if isinstance(a[name], torch.Tensor):
                assert torch.equal(a[name], b[name]), name
            else:
                assert a[name] == b[name]


def make(photographs, epoch=0, start_step=0, **changes):
    settings = {
        "recipe": RECIPE,
        "paste": PasteSettings(paste_probability=0.7, blend="mix"),
        "batch_size": 4,
        "seed": 5,
        **changes,
    }
    loader = build_loader(photographs.images, photographs.masks, **settings)
    loader.set_epoch(epoch, start_step)
    return loader


def test_an_image_is_free_before_the_next_is_opened(photographs, monkeypatch):
    """Else a loading process holds two of the largest images that its limits allow."""
    opened, decoded = open_image, []

    def watched(path):
        assert not any(pixels() is not None for pixels in decoded)
        image = opened(path)
        decode = image.decode

        def kept(reduction):
            pixels, factor = decode(reduction)
            decoded.append(weakref.ref(pixels))
            return pixels, factor

        image.decode = kept
        return image

    monkeypatch.setattr("pretrain.views.dataset.open_image", watched)
    assert len(batches(make(photographs))) == len(decoded) // 4 > 0


def test_batch_has_the_documented_arrays(photographs):
    loader = make(photographs, labels=np.arange(12))
    assert len(loader) == 3
    (batch, *_) = batches(loader)
    assert batch["index"].dtype == torch.int64 and batch["index"].shape == (4,)
    assert torch.equal(batch["label"], batch["index"])
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (4, 2, 32, 32, 3)
    assert batch["mask"].dtype == torch.uint8 and batch["mask"].shape == (4, 2, 32, 32)
    assert batch["parameters"].dtype == torch.float32
    assert batch["parameters"].shape == (4, 2, len(COLUMN))
    assert batch["replaced"] == batch["damaged"] == []
    assert batch["backgrounds_skipped"] == []
    pasted = batch["parameters"][..., COLUMN["paste"]] > 0
    assert 0 < pasted.sum() < 8
    assert (batch["mask"][~pasted] == 255).all()
    assert all((mask < 255).any() for mask in batch["mask"][pasted])


def test_epoch_shows_every_image_once_and_epochs_differ(photographs):
    loader = make(photographs)
    first = torch.cat([batch["index"] for batch in loader])
    loader.set_epoch(1)
    second = torch.cat([batch["index"] for batch in loader])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()
    assert not np.array_equal(epoch_order(5, 0, 12), epoch_order(6, 0, 12))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(photographs, workers):
    alone = make(photographs, epoch=1)
    helped = make(photographs, epoch=1, workers=workers)
    assert_same(batches(alone), batches(helped))


@pytest.mark.parametrize("workers", [0, 2])
def test_start_at_any_step_equals_the_rest_of_the_epoch(photographs, workers):
    whole = batches(make(photographs, epoch=3))
    rest = batches(make(photographs, epoch=3, start_step=2, workers=workers))
    assert_same(whole[2:], rest)
    assert batches(make(photographs, epoch=3, start_step=3)) == []


def test_skipped_images_are_not_read(photographs, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(photographs.images, images)
    keys = list_images(images)
    whole = batches(make(photographs))
    for index in epoch_order(5, 0, 12)[:8]:
        (images / keys[int(index)]).unlink()
    loader = build_loader(
        images,
        photographs.masks,
        keys=keys,
        recipe=RECIPE,
        paste=PasteSettings(paste_probability=0.7, blend="mix"),
        batch_size=4,
        seed=5,
    )
    loader.set_epoch(0, 2)
    assert_same(whole[2:], batches(loader))


def test_workers_live_on_and_an_epoch_left_early_does_not_leak_into_the_next(photographs):
    loader = make(photographs, workers=1)
    next(iter(loader))  # and the rest of epoch 0 is under way
    loader.set_epoch(4, 1)
    later = [batch["image"].clone() for batch in loader]
    loader.close()
    expected = [batch["image"] for batch in batches(make(photographs, epoch=4, start_step=1))]
    assert len(later) == 2
    assert all(torch.equal(a, b) for a, b in zip(later, expected, strict=True))


def test_ranks_together_see_what_one_process_sees(photographs):
    one = batches(make(photographs, batch_size=4))
    ranks = [batches(make(photographs, batch_size=2, rank=r, world_size=2)) for r in range(2)]
    for step, batch in enumerate(one):
        for name in ("index", "image", "mask", "parameters"):
            together = torch.cat([ranks[0][step][name], ranks[1][step][name]])
            assert torch.equal(together, batch[name])


def test_a_views_draw_depends_on_seed_epoch_index_and_view(photographs):
    def crops(**changes):
        loaded = batches(make(photographs, batch_size=12, **changes))[0]
        return loaded["parameters"][loaded["index"].argsort()]

    base = crops()
    assert torch.equal(base, crops())
    for changes in ({"seed": 6}, {"epoch": 1}):
        assert (crops(**changes) != base).any(-1).all()
    assert (base[:, 0] != base[:, 1]).any(-1).all()
    assert len({tuple(row) for row in base[:, 0].tolist()}) == 12


def test_without_pasting_no_masks_are_needed(photographs):
    loader = build_loader(photographs.images, recipe=RECIPE, batch_size=4)
    batch = batches(loader)[0]
    assert "mask" not in batch and loader.masks is None
    loader = build_loader(
        photographs.images, recipe=RECIPE, paste=PasteSettings(paste_probability=0), batch_size=4
    )
    assert "mask" not in batches(loader)[0]


def test_texture_background_is_loaded_where_pasted(photographs):
    paste = PasteSettings(
        background="texture", background_pool=str(photographs.images), paste_probability=0.5
    )
    for batch in batches(make(photographs, paste=paste)):
        pasted = batch["parameters"][..., COLUMN["paste"]] > 0
        assert batch["background"].shape == batch["image"].shape
        assert (batch["background"][~pasted] == 0).all()
        assert all(view.float().std() > 1 for view in batch["background"][pasted])


def test_dataset_travels_to_spawned_workers(photographs):
    dataset = make(photographs).dataset
    request = next(iter(make(photographs).requests))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[request]["image"], dataset[request]["image"])


# What the user did wrong -----------------------------------------------------------------------


def test_pasting_needs_masks(photographs):
    with pytest.raises(UserError, match="needs masks"):
        build_loader(photographs.images, recipe=RECIPE, paste=PasteSettings(), batch_size=2)


def test_masks_of_another_folder_are_refused(photographs, tmp_path):
    write_masks(tmp_path, {"cat.jpg": (soft_mask((20, 20)), (20, 20))})
    with pytest.raises(UserError, match=r"belong to another folder.*'cat.jpg'.*'class0/") as caught:
        build_loader(
            photographs.images,
            tmp_path,
            recipe=RECIPE,
            paste=PasteSettings(),
            batch_size=2,
            allow_missing_masks=True,
        )
    assert "\n" not in caught.value.message


def test_names_in_another_composition_are_explained(tmp_path):
    """macOS decomposes letters: the names look alike."""
    Image.new("RGB", (9, 9)).save(tmp_path / "Z\u00fcrich.png")
    write_masks(tmp_path / "masks", {"Zu\u0308rich.png": (soft_mask((9, 9)), (9, 9))})
    masks, keys = MaskShards(tmp_path / "masks"), list_images(tmp_path)
    with pytest.raises(UserError, match=r"'Z\\xfcrich.png' and 'Zu\\u0308rich.png' differ in Uni"):
        match_masks(keys, masks, tmp_path)
    with pytest.raises(UserError, match="in Unicode's composition"):
        MaskedImages(tmp_path, tmp_path / "masks")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    more = {"Zu\u0308rich.png": (soft_mask((9, 9)), (9, 9)), "a.png": (soft_mask((9, 9)), (9, 9))}
    write_masks(tmp_path / "both", more)
    rows = match_masks(list_images(tmp_path), MaskShards(tmp_path / "both"), tmp_path)
    assert rows.count(MISSING) == 1 and "in Unicode's composition" in rows.complaint(
        tmp_path, "both"
    )
    assert open_masks(tmp_path / "both").names.keys() == {"Z\u00fcrich", "a"}


def some_masks(photographs, folder, changes, statuses=None):
    """Write the photographs' masks with changes: key -> (mask, size), or None to leave it out."""
    rows = {key: (soft_mask((50, 60)), size) for key, size in photographs.sizes.items()}
    rows.update(changes)
    write_masks(folder, {key: row for key, row in rows.items() if row is not None}, statuses)


def test_missing_masks_stop_unless_allowed(photographs, tmp_path):
    absent, failed, unreadable, flat = list(photographs.sizes)[:4]
    some_masks(
        photographs,
        tmp_path,
        {
            absent: None,
            failed: (None, (0, 0)),
            unreadable: (None, (0, 0)),
            flat: (np.zeros((50, 60), np.uint8), photographs.sizes[flat]),
        },
        {failed: Status.FAILED, unreadable: Status.UNREADABLE},
    )
    arguments = {"recipe": RECIPE, "paste": PasteSettings(paste_probability=1), "batch_size": 12}
    with pytest.raises(UserError, match=r"3 of the 12 images .* have no mask") as caught:
        build_loader(photographs.images, tmp_path, **arguments)
    assert repr(absent) in caught.value.message
    loader = build_loader(photographs.images, tmp_path, allow_missing_masks=True, **arguments)
    assert (loader.masks.count(MISSING), loader.masks.count(FLAT)) == (3, 1)
    assert loader.masks.examples == sorted([absent, failed, unreadable])
    (batch,) = batches(loader)
    for place, index in enumerate(batch["index"].tolist()):
        unpasted = loader.keys[index] in {absent, failed, unreadable, flat}
        assert ((batch["mask"][place] == 255).all()) == unpasted
        assert (batch["parameters"][place, :, COLUMN["paste"]] == (not unpasted)).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_masks_of_another_size_of_image_are_refused(photographs, tmp_path, workers):
    key = next(iter(photographs.sizes))
    height, width = photographs.sizes[key]
    some_masks(photographs, tmp_path, {key: (soft_mask((50, 60)), (2 * height, 2 * width))})
    loader = build_loader(
        photographs.images,
        tmp_path,
        recipe=RECIPE,
        paste=PasteSettings(paste_probability=1),
        batch_size=4,
        workers=workers,
    )
    with pytest.raises(UserError, match=f"{2 * height}x{2 * width}.*{height}x{width}") as caught:
        batches(loader)
    assert repr(key) in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize("workers", [0, 1])
def test_images_damaged_inside_are_shown_and_named(tmp_path, workers, capfd):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    loader = build_loader(tmp_path, recipe=RECIPE, batch_size=3, workers=workers)
    (batch,) = batches(loader)
    assert sorted(batch["index"].tolist()) == [0, 1, 2] and batch["replaced"] == []
    (remark,) = batch["damaged"]
    assert remark.startswith("1.jpg: Corrupt JPEG data")
    assert "JPEG" not in capfd.readouterr().err


def test_unreadable_images_are_replaced_counted_and_named(photographs, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(photographs.images, images)
    keys = list_images(images)
    (images / keys[2]).write_bytes(b"no image")
    (images / keys[7]).unlink()
    runs = []
    for workers in (0, 2):
        loader = build_loader(
            images,
            photographs.masks,
            keys=keys,
            recipe=RECIPE,
            paste=PasteSettings(),
            batch_size=4,
            workers=workers,
        )
        runs.append(batches(loader))
    assert_same(*runs)
    reasons = [reason for batch in runs[0] for reason in batch["replaced"]]
    assert {reason.partition(":")[0] for reason in reasons} == {keys[2], keys[7]}
    assert any(reason.startswith(f"{keys[7]}: no such file") for reason in reasons)
    shown = torch.cat([batch["index"] for batch in runs[0]]).tolist()
    assert len(shown) == 12 and not {2, 7} & set(shown)
    # The row is what the replacing image would be anywhere in this epoch.
    clean = batches(make(photographs, paste=PasteSettings(), seed=0, batch_size=12))[0]
    where = {index: place for place, index in enumerate(clean["index"].tolist())}
    for batch in runs[0]:
        for place, index in enumerate(batch["index"].tolist()):
            assert torch.equal(batch["image"][place], clean["image"][where[index]])


@pytest.mark.parametrize("decode_on", [None, torch.device("cpu")])
def test_an_unreadable_background_is_skipped_and_named(photographs, tmp_path, decode_on):
    textures = tmp_path / "textures"
    textures.mkdir()
    Image.new("RGB", (40, 40), "red").save(textures / "b.png")
    (textures / "a.png").write_bytes(b"")
    images = tmp_path / "images"
    shutil.copytree(photographs.images, images)
    damaged = images / list_images(images)[2]  # another image takes its place
    damaged.write_bytes(damaged.read_bytes()[:-40] + bytes(38) + b"\xff\xd9")
    paste = PasteSettings(
        paste_probability=1.0, background="texture", background_pool=str(textures)
    )
    loader = build_loader(
        images, photographs.masks, recipe=RECIPE, batch_size=12, decode_on=decode_on, paste=paste,
    )  # fmt: skip
    (batch,) = batches(loader)
    assert set(batch["backgrounds_skipped"]) == {"background a.png: empty file"}


def test_a_folder_that_vanished_ends_the_run_with_a_sentence(photographs, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(photographs.images, images)
    loader = build_loader(images, recipe=RECIPE, batch_size=4)
    shutil.rmtree(images)
    with pytest.raises(UserError, match=r"in a row .* cannot be read"):
        batches(loader)


def test_worker_memory_is_flat(photographs):
    """A worker holds no image beyond the batch it makes: many epochs add nothing."""
    import psutil

    loader = make(photographs, recipe=ViewRecipe(views=2, image_size=32), workers=1)
    sizes = []
    for epoch in range(12):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
        (worker,) = psutil.Process().children()[-1:]
        sizes.append(worker.memory_info().rss)
    loader.close()
    assert sizes[-1] - sizes[5] < 4 * 2**20


def test_interruptions_are_left_to_the_main_process(photographs):
    """Workers survive the SIGTERM and SIGINT that a whole job receives; `close` ends them."""
    import signal
    import time

    import psutil

    before = set(psutil.Process().children())
    loader = make(photographs, workers=2)
    steps = iter(loader)
    next(steps), next(steps)  # one of each worker: both are ready
    workers = set(psutil.Process().children()) - before
    assert len(workers) >= 2
    for worker in workers:
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGTERM)
    assert len(list(steps)) == 1
    loader.close()
    del steps
    deadline = time.monotonic() + 20
    while any(worker.is_running() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(worker.is_running() for worker in workers)


def test_a_program_that_never_closes_its_loader_ends(photographs):
    """Also when an exception holds the iterator."""
    import subprocess
    import sys

    program = f"""
import sys
from pretrain.views.loader import build_loader
from pretrain.views.mask_rows import match_masks
from pretrain.views.recipes import ViewRecipe
recipe = ViewRecipe(image_size=16)
loader = build_loader({str(photographs.images)!r}, recipe=recipe, batch_size=2, workers=1)
steps = iter(loader)
next(steps)
sys.kept = steps
raise RuntimeError("stop")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: stop\n")


def test_images_of_poor_masks_stay_unpasted(photographs):
    """Those alone, and nothing else moves."""
    paste = PasteSettings(paste_probability=1)
    everything = make(photographs, paste=paste)
    shares = np.array([everything.dataset.masks.read(row).mean() / 255 for row in range(12)])
    low, high = np.quantile(shares, [0.3, 0.8])
    kept = make(photographs, paste=PasteSettings(paste_probability=1, paste_coverage=(low, high)))
    poor = (shares < low) | (shares > high)
    assert kept.masks.count(POOR) == poor.sum() > 3 and everything.masks.count(POOR) == 0
    for ours, theirs in zip(batches(kept), batches(everything), strict=True):
        pasted = ours["parameters"][:, 0, COLUMN["paste"]].bool()
        assert torch.equal(pasted, torch.from_numpy(~poor)[ours["index"]])
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["mask"][pasted], theirs["mask"][pasted])
        assert (ours["mask"][~pasted] == 255).all()

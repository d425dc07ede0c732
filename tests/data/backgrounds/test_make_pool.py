"""The pool: quiet crops, whole or not at all, never overwritten."""

from __future__ import annotations

import multiprocessing
import os

import h5py
import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner
from PIL import Image

from data.backgrounds.pool import (
    POOL_FORMAT,
    POOL_VERSION,
    BackgroundPool,
    PoolSettings,
    build_pool,
    quiet_square,
)
from data.cli import main
from data.errors import UserError
from tests.pretrain.mask_samples import write_masks

# The search -------------------------------------------------------------------------------------


def brute_force(mask, threshold, tolerance, side):
    """The least response of any square of this side."""
    response = mask > 255 * threshold
    return min(
        response[top : top + side, left : left + side].sum()
        for top in range(mask.shape[0] - side + 1)
        for left in range(mask.shape[1] - side + 1)
    )


@pytest.mark.parametrize("seed", range(20))
def test_quiet_square_is_quiet_and_no_larger_one_was_missed(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((30, 40), np.uint8)
    for _ in range(rng.integers(1, 6)):
        top, left = rng.integers(0, 30), rng.integers(0, 40)
        mask[top : top + rng.integers(1, 12), left : left + 9] = rng.integers(20, 256)
    mask[rng.random(mask.shape) < 0.002] = 255
    threshold, tolerance = 0.1, 0.01
    square = quiet_square(mask, threshold, tolerance, 5)
    sides = [30]
    while sides[-1] > 5:
        sides.append(min(sides[-1] - 1, int(sides[-1] * 0.9)))
    quiet = [
        side
        for side in sides
        if side >= 5 and brute_force(mask, threshold, tolerance, side) <= tolerance * side**2
    ]
    if not quiet:
        assert square is None
        return
    top, left, side = square
    assert side == quiet[0]
    inside = mask[top : top + side, left : left + side] > 25.5
    assert inside.shape == (side, side)
    assert inside.sum() == brute_force(mask, threshold, tolerance, side)


def test_a_mask_that_responds_everywhere_has_no_quiet_square():
    assert quiet_square(np.full((20, 20), 255, np.uint8), 0.1, 0.01, 4) is None
    assert quiet_square(np.zeros((20, 30), np.uint8), 0.1, 0.01, 4) == (0, 0, 20)
    assert quiet_square(np.zeros((20, 30), np.uint8), 0.1, 0.01, 21) is None


# The pool ---------------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path):
    """Four images whose right half is quiet by one method; by the other only its lower part is."""
    images = tmp_path / "images"
    images.mkdir()
    first, second = {}, {}
    for number in range(4):
        pixels = np.ascontiguousarray(skimage.data.coffee()[:300, 100 : 500 + 10 * number])
        Image.fromarray(pixels).save(images / f"{number}.png")
        size = pixels.shape[:2]
        mask = np.zeros((150, size[1] // 2), np.uint8)
        mask[:, : size[1] // 4] = 200
        other = np.zeros((75, size[1] // 4), np.uint8)
        other[:25] = 255
        first[f"{number}.png"] = mask, size
        second[f"{number}.png"] = other, size
    write_masks(tmp_path / "first", first, canvas=256)
    write_masks(tmp_path / "second", second, canvas=256)
    return tmp_path


SMALL = PoolSettings(min_side=60, size=32)


def test_pool_holds_the_quiet_crops(scenes):
    report = build_pool(scenes / "images", [scenes / "first"], scenes / "pool.h5", SMALL)
    assert (report.crops, report.looked_at, report.without_mask) == (4, 4, 0)
    pool = BackgroundPool(scenes / "pool.h5")
    assert (len(pool), pool.size) == (4, 32)
    with h5py.File(scenes / "pool.h5") as file:
        keys = [key.decode() for key in file["keys"]]
        boxes = file["boxes"][:].tolist()
    assert sorted(keys) == [f"{n}.png" for n in range(4)]
    for number, (key, (top, left, side)) in enumerate(zip(keys, boxes, strict=True)):
        image = np.asarray(Image.open(scenes / "images" / key))
        assert left >= image.shape[1] // 2 - 2 and side > 150
        assert top + side <= image.shape[0] and left + side <= image.shape[1]
        whole = Image.fromarray(image[top : top + side, left : left + side])
        expected = np.asarray(whole.resize((32, 32), Image.BILINEAR)).astype(int)
        assert np.abs(pool.read(number) - expected).max() <= 1


def test_several_masks_mean_that_no_method_responds(scenes):
    masks = [scenes / "first", scenes / "second"]
    build_pool(scenes / "images", masks, scenes / "pool.h5", SMALL)
    with h5py.File(scenes / "pool.h5") as file:
        tops, lefts = file["boxes"][:, 0], file["boxes"][:, 1]
    assert (tops >= 95).all() and (lefts >= 195).all()


def test_limit_and_seed_choose_the_images(scenes):
    chosen = []
    for seed in (0, 0, 1, 2, 3):
        settings = PoolSettings(min_side=60, size=8, limit=2, seed=seed)
        build_pool(scenes / "images", [scenes / "first"], scenes / "p.h5", settings, True)
        with h5py.File(scenes / "p.h5") as file:
            chosen.append(tuple(file["keys"][:]))
    assert len(chosen[0]) == 2 and chosen[0] == chosen[1] and len(set(chosen)) > 1


def _read(pool, number, queue):
    queue.put(pool.read(number).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pool_is_read_in_other_processes(scenes, method):
    build_pool(scenes / "images", [scenes / "first"], scenes / "pool.h5", SMALL)
    pool = BackgroundPool(scenes / "pool.h5")
    expected = pool.read(2).sum()  # opens the file, then forks
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_read, args=(pool, 2, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()


def test_an_interrupted_search_leaves_nothing(scenes):
    def interrupt(report):
        if report.looked_at == 2:
            raise KeyboardInterrupt

    before = set(scenes.iterdir())
    with pytest.raises(KeyboardInterrupt):
        build_pool(
            scenes / "images", [scenes / "first"], scenes / "pool.h5", SMALL, False, interrupt
        )
    assert set(scenes.iterdir()) == before


def test_unreadable_images_and_missing_masks_are_counted(scenes):
    (scenes / "images" / "1.png").write_bytes(b"")
    Image.new("RGB", (300, 300)).save(scenes / "images" / "new.png")
    report = build_pool(scenes / "images", [scenes / "first"], scenes / "pool.h5", SMALL)
    assert (report.crops, report.unreadable, report.without_mask) == (3, 1, 1)


def run(*arguments):
    return CliRunner().invoke(main, ["backgrounds", *map(str, arguments)])


def test_command_says_what_it_made_and_refuses_to_overwrite(scenes):
    arguments = (scenes / "images", scenes / "first", scenes / "second", scenes / "pool.h5")
    done = run(*arguments, "--min-side", 60, "--size", 32)
    assert done.exit_code == 0 and "4 crops of 4 images" in done.stdout
    again = run(*arguments, "--min-side", 60)
    assert (
        again.exit_code == 2
        and "is there already" in again.stderr
        and again.stderr.count("\n") == 1
    )
    assert run(*arguments, "--min-side", 60, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--threshold", "1.5"], "threshold is 1.5"),
        (["--tolerance", "-0.1"], "tolerance is -0.1"),
        (["--size", "0"], "size is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--min-side", "5000"], "there is no quiet crop"),
    ],
)
def test_command_tells_wrong_options(scenes, change, message):
    done = run(scenes / "images", scenes / "first", scenes / "pool.h5", *change)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (scenes / "pool.h5").exists()


def test_masks_of_other_images_are_refused(scenes):
    write_masks(scenes / "other", {"cat.png": (np.zeros((20, 20), np.uint8), (20, 20))})
    done = run(scenes / "images", scenes / "other", scenes / "pool.h5")
    assert done.exit_code == 2 and "'cat.png'" in done.stderr
    write_masks(
        scenes / "double",
        {f"{n}.png": (np.zeros((150, 200), np.uint8), (600, 800)) for n in range(4)},
        canvas=256,
    )
    done = run(scenes / "images", scenes / "double", scenes / "pool.h5")
    assert done.exit_code == 2 and "600x800" in done.stderr


def test_files_that_are_no_pools_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(UserError, match="signature not found"):
        BackgroundPool(tmp_path / "text.h5")
    with pytest.raises(UserError, match="is not a regular file"):
        BackgroundPool(tmp_path)
    os.mkfifo(tmp_path / "pipe.h5")  # to open it would never end
    with pytest.raises(UserError, match="is not a regular file"):
        BackgroundPool(tmp_path / "pipe.h5")
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file.attrs.update({"format": POOL_FORMAT, "format_version": POOL_VERSION})
        external = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("crops", (2, 4, 4, 3), "u1", external=external)
    with pytest.raises(UserError, match="crops refers to other files"):
        BackgroundPool(tmp_path / "linked.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="is no pool"):
        BackgroundPool(tmp_path / "other.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["format"], file.attrs["format_version"] = "dilo-background-pool", 99
    with pytest.raises(UserError, match="is a pool of version 99"):
        BackgroundPool(tmp_path / "old.h5")

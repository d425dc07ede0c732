"""One loader: an epoch's order, what workers write, their errors, threads and end."""

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms import v2

from data.errors import RunFailed, UserError, errors_told
from data.images.listing import list_images
from data.loading import (
    EpochBatches,
    Loader,
    as_tensor,
    build_plain_loader,
    new_tensor,
    normalise,
    seeded_order,
    unreadable_of,
)

REPOSITORY = Path(__file__).resolve().parents[2]


# The order of an epoch --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "batch", "size"), [(10, 4, 1), (10, 4, 2), (11, 4, 4), (3, 8, 2), (12, 4, 3)]
)
@pytest.mark.parametrize("whole", [True, False])
def test_processes_share_every_step(count, batch, size, whole):
    options = {"world_size": size, "whole": whole}
    order = seeded_order(0, count)
    shares = [list(EpochBatches(order, count, batch, rank=r, **options)) for r in range(size)]
    steps = {len(share) for share in shares}
    assert steps == {len(EpochBatches(order, count, batch, **options))}
    seen = []
    for step in zip(*shares, strict=True):
        assert len({len(part.indices) for part in step}) == 1  # all have as many images
        seen += [index for part in step for index in part.indices.tolist()]
    expected = order(0).tolist()
    if whole:
        assert seen == expected[: count // (batch * size) * batch * size]
    else:
        assert seen[:count] == expected and len(seen) - count < size
        assert seen[count:] == expected[: len(seen) - count]


def test_order_changes_with_the_epoch_alone():
    batches = EpochBatches(seeded_order(3, 20), 20, 5)
    first = [request.indices.tolist() for request in batches]
    assert [request.indices.tolist() for request in batches] == first and len(first) == 4
    batches.epoch = 1
    second = [request.indices.tolist() for request in batches]
    assert second != first and sorted(np.concatenate(second).tolist()) == list(range(20))
    assert [request.epoch for request in batches] == [1] * 4
    batches.start = 3
    assert [request.indices.tolist() for request in batches] == second[3:]
    assert len(batches) == 1 and batches.steps == 4


# Workers ----------------------------------------------------------------------------------------


class Batches:
    """Batches of some shapes, and whether they lie in shared memory."""

    def __getitem__(self, number):
        big, empty = new_tensor((3, 100, 5), torch.uint8), new_tensor((0, 4), torch.float32)
        big.numpy()[...] = number
        small = as_tensor(np.array([number, -1]))
        return big, empty, small, [t.is_shared() for t in (big, empty, small)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_writes_arrives(workers):
    loader = Loader(Batches(), range(3), workers)
    assert len(loader) == 3
    for number, (big, empty, small, shared) in enumerate(loader):
        assert big.shape == (3, 100, 5) and big.dtype == torch.uint8 and (big == number).all()
        assert empty.shape == (0, 4) and empty.dtype == torch.float32
        assert small.tolist() == [number, -1]
        assert all(shared) == (workers > 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_items_are_collated(workers):
    loader = Loader([10, 20, 30], [[0, 2], [1]], workers, collate=default_collate)
    assert [batch.tolist() for batch in loader] == [[10, 30], [20]]


def test_kept_workers_serve_every_epoch_until_the_loader_is_closed():
    before = set(multiprocessing.active_children())
    loader = Loader([1, 2], range(2), 1, keep_workers=True)
    assert list(loader) == [1, 2]
    workers = set(multiprocessing.active_children()) - before
    assert list(loader) == [1, 2]
    assert set(multiprocessing.active_children()) - before == workers and len(workers) == 1
    loader.close()
    gc.collect()
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(iter(loader))


class Broken:
    def __getitem__(self, request):
        raise UserError("the photograph 'a: b' cannot be read; remove it.")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_s_mistake_is_its_sentence_whichever_process_meets_it(workers):
    with pytest.raises(UserError) as caught:
        list(Loader(Broken(), range(3), workers))
    assert caught.value.message == "the photograph 'a: b' cannot be read; remove it."
    assert caught.value.of_one_process


def run(program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=REPOSITORY
    )


_KEPT = """
from data.errors import UserError
from data.loading import Loader
from tests.data.test_loading import Broken

try:
    list(Loader(Broken(), range(3), 1))
except UserError as error:
    kept = error  # and with it, by its traceback, the loader and its worker
    print(error.message)
"""


def test_a_process_ends_that_keeps_an_error_and_with_it_the_workers():
    assert run(_KEPT).stdout == "the photograph 'a: b' cannot be read; remove it.\n"


_THREADS = """
import cv2
import numpy as np
from data.loading import Loader

cv2.setNumThreads(4)

class Resized:
    def __getitem__(self, index):
        cv2.setNumThreads(1)  # waits for threads that are there by OpenCV's books only
        return int(cv2.resize(np.full((900, 900, 3), index, np.float32), (700, 700))[0, 0, 0])

cv2.GaussianBlur(np.zeros((3000, 3000, 3), np.uint8), (0, 0), 5)  # now its threads are there
print(list(Loader(Resized(), range(8), 2)))
"""


def test_workers_do_not_wait_for_threads_that_a_fork_lost():
    done = run(_THREADS)
    assert done.stdout == f"{list(range(8))}\n", done.stderr


def test_what_a_spawned_worker_gets_shares_the_end_of_the_first():
    loader = Loader([1], range(1), 1)
    signals = loader._signals
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_wait_for_the_end, args=(signals,))
    process.start()
    loader.close()
    process.join(60)
    assert process.exitcode == 0


def _wait_for_the_end(signals):
    import time

    while not signals._ending.value:
        time.sleep(0.01)


def test_dropped_unclosed_workers_may_end():
    loader = Loader([1], range(1), 1)
    loader.cycle = loader  # as an exception's traceback may hold a loader
    ending = loader._signals._ending
    assert ending.value == 0
    del loader
    gc.collect()
    assert ending.value == 1


# Images as evaluation sees them -----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    for number, size in enumerate([(400, 300), (300, 400), (256, 256), (90, 60), (350, 263)]):
        path = root / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(skimage.data.astronaut()).resize(size).save(path)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_torchvisions(folder, workers):
    keys = list_images(folder)
    plain = v2.Compose([v2.Resize(73, antialias=True), v2.CenterCrop(64)])
    loader = build_plain_loader(folder, image_size=64, batch_size=2, workers=workers)
    assert len(loader) == 3
    seen = []
    for batch in loader:
        for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            whole = torch.from_numpy(np.array(Image.open(folder / keys[index])))
            theirs = plain(whole.permute(2, 0, 1)).permute(1, 2, 0)
            assert torch.equal(image, theirs)
            seen.append(index)
    assert seen == list(range(5))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_left_out_and_told(folder, tmp_path, workers):
    (tmp_path / "a").mkdir()
    for name in ("0.png", "1: .png", "2.png"):
        (tmp_path / "a" / name).write_bytes((folder / "cat" / "0.png").read_bytes())
    (tmp_path / "a" / "1: .png").write_bytes(b"")
    (batch,) = build_plain_loader(tmp_path, image_size=8, labels=[5, 6, 7], workers=workers)
    assert batch["index"].tolist() == [0, 2] and batch["label"].tolist() == [5, 7]
    assert batch["image"].shape == (2, 8, 8, 3)
    assert unreadable_of(batch) == {"a/1: .png": "empty file"}


def test_full_shared_memory_is_a_sentence(folder, monkeypatch):
    """PyTorch alone would wait indefinitely: the thread that sends a batch fails unheard."""

    def full(size):
        raise RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(UserError, match=r"^the shared memory is full .*--shm-size"), errors_told():
        next(iter(build_plain_loader(folder, image_size=8, workers=1)))


def test_a_worker_killed_while_it_hands_over_is_a_sentence(folder, monkeypatch):
    """Then its socket breaks before its end is noticed."""

    def broken(iterator):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    loader = build_plain_loader(folder, image_size=8, workers=1)
    monkeypatch.setattr(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._next_data", broken
    )
    with pytest.raises(RunFailed, match="a loading process was killed"), errors_told():
        list(loader)
    loader.close()


def test_a_batch_is_made_in_shared_memory(folder):
    for batch in build_plain_loader(folder, image_size=8, workers=1, labels=range(5)):
        for name in ("image", "index", "label"):
            assert batch[name].is_shared()


def test_normalise_is_torchvisions():
    pixels = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    theirs = v2.functional.normalize(
        pixels.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    ours = normalise(pixels)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_workers_outlive_a_signal_to_every_process(folder):
    """As a cluster's SIGTERM and a terminal's Ctrl-C are; the main process decides."""
    expected = [batch["index"].tolist() for batch in build_plain_loader(folder, batch_size=1)]
    before = set(multiprocessing.active_children())
    indices = []
    for batch in build_plain_loader(folder, batch_size=1, workers=1):
        if not indices:
            (worker,) = set(multiprocessing.active_children()) - before
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
        indices.append(batch["index"].tolist())
    assert indices == expected
    worker.join(20)
    assert worker.exitcode == 0


def test_a_program_that_leaves_a_loader_half_read_ends(folder):
    program = f"""
from data.loading import build_plain_loader
batches = iter(build_plain_loader({str(folder)!r}, image_size=16, batch_size=1, workers=1))
next(batches)
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 3


def test_cores_are_those_that_the_surroundings_grant():
    program = "from data.processes import usable_cores; print(usable_cores())"
    granted = {**os.environ, "LOKY_MAX_CPU_COUNT": "1"}  # joblib reads affinity and quotas alike
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=granted, check=True
    )
    assert done.stdout.strip() == "1"

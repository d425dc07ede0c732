"""The stage between worker processes and a device, on a method that is known and a GPU that isn't.

The GPU is played: it has a clock of its own, and what is copied from it arrives only when an event
that was recorded behind the copy, on the same GPU, is waited for.
"""

import contextlib
import weakref
from collections import defaultdict

import cv2
import numpy as np
import pytest
import torch

from data.errors import UserError, errors_told
from data.images.listing import list_images
from data.masks.format import ChunkEncoder, Status
from data.masks.read import MaskShards
from saliency.batch import Plan, make_shards
from saliency.device_stage import DeviceStage

SIDE = 8


class Brightness:
    """The map of an image is its red channel; remembers the batches."""

    decode_side = 0

    def __init__(self, batch_size, device="cpu", computed=lambda: None):
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.batches = []
        self.computed = computed

    def prepare(self, image):
        if image.shape[0] == 13:
            raise ValueError("thirteen rows")
        resized = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
        return resized.astype(np.float32).transpose(2, 0, 1) / 255

    def compute(self, batch, keys):
        assert len(batch) == len(keys)
        self.batches.append(list(keys))
        self.computed()
        return batch[:, 0]

    def finish(self, result, prepared, size):
        return cv2.resize(result, size[::-1], interpolation=cv2.INTER_NEAREST)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """40 photographs of one gray each, which is 5 times their number."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(40):
        gray = np.full((10, 10, 3), 5 * number, np.uint8)
        cv2.imwrite(str(root / f"{number:02d}.png"), gray)
    return root


def make(images, out, method, shard_size=4096, limit=None, max_side=400, workers=1):
    keys = list_images(images)[:limit]
    plan = Plan(
        images, keys, {"basnet": out}, {"basnet": {}}, max_side=max_side, shard_size=shard_size
    )
    stage = DeviceStage(method, workers)
    make_shards(plan, stage, show_progress=False)
    return stage


@pytest.mark.parametrize("batch_size", [1, 3, 16, 24, 64])
def test_batches_are_as_large_as_asked_and_not_larger(photographs, tmp_path, batch_size):
    method = Brightness(batch_size)
    make(photographs, tmp_path, method)
    sizes = [len(batch) for batch in method.batches]
    assert sum(sizes) == 40
    assert set(sizes[:-1]) <= {batch_size} and sizes[-1] <= batch_size


def test_unreadable_images_take_no_place_in_a_batch(photographs, tmp_path):
    for number in range(40):
        path = tmp_path / f"{number:02d}.png"
        if number in (0, 7, 8, 15, 16, 39):
            path.write_bytes(b"no picture")
        else:
            path.symlink_to(photographs / path.name)
    method = Brightness(7)
    make(tmp_path, tmp_path / "out", method)
    assert [len(batch) for batch in method.batches] == [7, 7, 7, 7, 6]
    shards = MaskShards(tmp_path / "out")
    for number, key in enumerate(shards.keys):
        if number in (0, 7, 8, 15, 16, 39):
            assert shards.status(key) == Status.UNREADABLE
        else:
            assert (shards.read(key) == 5 * number).all()


def test_resumed_run_computes_the_batches_of_an_uninterrupted_one(photographs, tmp_path):
    whole, rest = Brightness(24), Brightness(24)
    make(photographs, tmp_path, whole, shard_size=10)
    (tmp_path / "shard-00002.h5").unlink()
    make(photographs, tmp_path, rest, shard_size=10)
    keys = list(list_images(photographs))[20:30]
    assert [key for batch in rest.batches for key in batch] == keys
    assert all(batch in whole.batches for batch in rest.batches)


def test_image_that_cannot_be_prepared_is_a_failed_row(photographs, tmp_path):
    for number, rows in enumerate((10, 13, 10)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((rows, 10, 3), 99, np.uint8))
    make(tmp_path, tmp_path / "out", Brightness(8))
    shards = MaskShards(tmp_path / "out")
    assert shards.status("1.png") == Status.FAILED
    assert shards.error("1.png") == "ValueError: thirteen rows"
    assert tuple(shards.image_size("1.png")) == (13, 10)
    assert (shards.read("0.png") == 99).all() and (shards.read("2.png") == 99).all()


def test_full_shared_memory_is_told(photographs, tmp_path, monkeypatch):
    """PyTorch alone would wait indefinitely: the thread that sends a block fails unheard."""

    def full(size):
        raise RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(UserError, match=r"^the shared memory is full .* enlarge it"), errors_told():
        make(photographs, tmp_path, Brightness(8), workers=2)


def test_strip_too_long_to_store_is_a_failed_row(tmp_path):
    for name, width in (("a", 10), ("b", 17_000)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((2, width, 3), 99, np.uint8))
    make(tmp_path, tmp_path / "out", Brightness(8), max_side=0)
    shards = MaskShards(tmp_path / "out")
    assert shards.status("b.png") == Status.FAILED and "longer than 16,384" in shards.error("b.png")
    assert tuple(shards.image_size("b.png")) == (2, 17_000)
    assert (shards.read("a.png") == 99).all()


def test_encoders_of_earlier_shards_are_let_go(tmp_path, monkeypatch):
    """Without a cap each shard has a raster of its own size, and each thread an encoder for it."""
    alive, most = weakref.WeakSet(), []

    class Counted(ChunkEncoder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.add(self)
            most.append(len(alive))

    for number in range(9):
        side = 20 + number
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((side, side, 3), 99, np.uint8))
    monkeypatch.setattr("saliency.workers.ChunkEncoder", Counted)
    make(tmp_path, tmp_path / "out", Brightness(4), shard_size=1, max_side=0)
    shards = MaskShards(tmp_path / "out")
    assert [shards.read(key).shape[0] for key in shards.keys] == list(range(20, 29))
    assert len(most) == 9 and max(most) <= 3


class Coarse(Brightness):
    """Answers in bfloat16, which NumPy does not know."""

    def compute(self, batch, keys):
        return super().compute(batch, keys).bfloat16()


def test_results_of_any_floating_dtype_become_masks(photographs, tmp_path):
    make(photographs, tmp_path, Coarse(16))
    shards = MaskShards(tmp_path)
    for number in range(40):
        gray = torch.tensor(5 * number / 255).bfloat16().item() * 255
        assert (shards.read(f"{number:02d}.png") == np.floor(gray + 0.5)).all()


class PlayedGpu:
    """Two GPUs whose work is done when somebody waits for it; a batch takes a second."""

    def __init__(self):
        self.current = 0
        self.host = 0.0  # seconds
        self.clock = defaultdict(float)
        self.queue = defaultdict(list)

    def submit(self, gpu, work, seconds=0.0):
        def run(submitted=self.host):
            self.clock[gpu] = max(self.clock[gpu], submitted) + seconds
            work()

        self.queue[gpu].append(run)

    def compute(self):
        self.submit(1, lambda: None, seconds=1)
        self.host += 1  # launching kernels takes as long as running them

    @contextlib.contextmanager
    def device(self, device):
        before, self.current = self.current, device.index
        yield
        self.current = before

    def event(self, enable_timing=False):
        return PlayedEvent(self)


class PlayedEvent:
    def __init__(self, machine):
        self.machine = machine
        self.time = None

    def record(self):
        machine, self.gpu = self.machine, self.machine.current

        def happen():
            self.time = machine.clock[self.gpu]

        machine.submit(self.gpu, happen)

    def synchronize(self):
        queue = self.machine.queue[self.gpu]
        while self.time is None:
            queue.pop(0)()
        self.machine.host = max(self.machine.host, self.time)

    def elapsed_time(self, other):
        return 1000 * (other.time - self.time)


@pytest.fixture
def gpu(monkeypatch):
    machine = PlayedGpu()
    empty, copy, to = torch.empty, torch.Tensor.copy_, torch.Tensor.to

    def pinned(*shape, pin_memory=False, **more):
        return empty(*shape, **more).fill_(-1)  # what was in that memory before

    def late_copy(target, source, non_blocking=False):
        if non_blocking:
            return machine.submit(1, lambda: copy(target, source))
        return copy(target, source)

    def at_once(tensor, place, *rest, non_blocking=False, **more):
        return tensor if isinstance(place, torch.device) else to(tensor, place, *rest, **more)

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.Tensor, "copy_", late_copy)
    monkeypatch.setattr(torch.Tensor, "to", at_once)
    monkeypatch.setattr(torch.cuda, "device", machine.device)
    monkeypatch.setattr(torch.cuda, "Event", machine.event)
    monkeypatch.setattr("saliency.device_stage.time.perf_counter", lambda: machine.host)
    return machine


def test_second_gpu_is_waited_for_before_its_masks_are_read(photographs, tmp_path, gpu):
    make(photographs, tmp_path, Brightness(16, "cuda:1", gpu.compute))
    shards = MaskShards(tmp_path)
    for number in range(40):
        assert (shards.read(f"{number:02d}.png") == 5 * number).all()
    assert not gpu.queue[0]


def test_results_of_any_floating_dtype_come_from_a_gpu(photographs, tmp_path, gpu):
    make(photographs, tmp_path, Coarse(16, "cuda:1", gpu.compute))
    assert (MaskShards(tmp_path).read("01.png") == 5).all()


def test_wall_time_on_a_gpu_begins_with_its_first_batch(photographs, tmp_path, gpu):
    stage = make(photographs, tmp_path, Brightness(16, "cuda:1", gpu.compute))
    assert stage.busy_seconds == 3 and stage.wall_seconds == 3
    assert stage.waiting_share == 0

"""What worker processes make of images for a device: blocks of inputs, put together to batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from data.images.decode import UnreadableImage, capped_size, decode, key_path
from data.masks.write import Status
from data.shared_memory import as_tensor
from saliency.batch import Block, Plan
from saliency.loading import WorkerLoader
from saliency.methods.protocol import NetworkMethod
from saliency.rows import reason_of, too_long


class Facts(NamedTuple):
    """What is known of an image besides its pixels."""

    image_size: tuple[int, int]  # (height, width), upright
    mask_size: tuple[int, int]  # its long side capped
    error: str = ""  # why it has no mask, or empty
    status: Status = Status.UNREADABLE  # where there is an error


class Prepared(NamedTuple):
    """A block of images from a worker: the readable ones' inputs (N, 3, S, S), and all facts."""

    block: Block
    inputs: Tensor
    facts: list[Facts]

    def split(self, images: int) -> "tuple[Prepared, Prepared]":
        """The part with so many readable images, and the rest."""
        rows = [row for row, facts in enumerate(self.facts) if not facts.error]
        row = rows[images] if images < len(rows) else len(self.facts)
        return (
            self._part(slice(row), slice(images)),
            self._part(slice(row, None), slice(images, None)),
        )

    def _part(self, rows: slice, images: slice) -> "Prepared":
        block = self.block._replace(keys=self.block.keys[rows])
        return Prepared(block, self.inputs[images], self.facts[rows])


class _PreparedBlocks(Dataset):
    """Item i is block i, decoded and prepared."""

    def __init__(self, plan: Plan, blocks: Sequence[Block], method: NetworkMethod) -> None:
        self.root = plan.root
        self.blocks = blocks
        self.max_side = plan.max_side
        self.decode_side = method.decode_side
        self.prepare = method.prepare

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> Prepared:
        block = self.blocks[index]
        inputs, facts = [], []
        for key in block.keys:
            try:
                image, image_size = decode(key_path(self.root, key), self.decode_side)
            except UnreadableImage as reason:
                facts.append(Facts((0, 0), (0, 0), str(reason)))
                continue
            mask_size = capped_size(image_size, self.max_side)
            if reason := too_long(mask_size):
                facts.append(Facts(image_size, (0, 0), reason, Status.FAILED))
                continue
            try:
                inputs.append(self.prepare(image))
            except Exception as error:  # one odd image must not end hours of work
                facts.append(Facts(image_size, (0, 0), reason_of(error), Status.FAILED))
                continue
            facts.append(Facts(image_size, mask_size))
        stacked = np.stack(inputs) if inputs else np.zeros((0, 3, 1, 1), np.float32)
        return Prepared(block, as_tensor(stacked), facts)


def prepared_batches(
    plan: Plan, blocks: Sequence[Block], method: NetworkMethod, jobs: int
) -> Iterator[list[Prepared]]:
    """Yield blocks and pieces of blocks, together as large as a batch may be, of one shard.

    Parameters
    ----------
    plan : Plan
    blocks : sequence of Block
    method : NetworkMethod
    jobs : int
        Worker processes; 1 works in this process alone.

    Raises
    ------
    RuntimeError
        A worker process was killed (`saliency.loading.death_of_a_worker`).

    Notes
    -----
    A network's last bits depend on what else is in the batch; so a shard's masks are the same
    whichever shards are made before it.
    """
    size = method.batch_size
    loader = WorkerLoader(
        _PreparedBlocks(plan, blocks, method),
        jobs if jobs > 1 else 0,
        batch_size=None,
        collate_fn=_as_it_is,
    )
    group: list[Prepared] = []
    images = 0
    for prepared in loader:
        if group and prepared.block.shard != group[0].block.shard:
            yield group
            group, images = [], 0
        while images + len(prepared.inputs) >= size:
            head, prepared = prepared.split(size - images)
            yield [*group, head]
            group, images = [], 0
        if prepared.facts:
            group.append(prepared)
            images += len(prepared.inputs)
    if group:
        yield group


def _as_it_is(prepared: Prepared) -> Prepared:
    return prepared

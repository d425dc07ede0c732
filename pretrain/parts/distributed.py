"""Several processes started by torchrun, or one: the same calls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data.device import pick_device


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, on `device`."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    control: object = None  # gloo group for decisions on the host, without waiting for the device

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model so that its gradients are averaged over all processes.

        Each process keeps its own batch-norm statistics, and no buffer is sent every step.
        """
        if self.size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set in any process. Every process must call it."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.control)
        return tuple(bool(vote) for vote in votes)

    def gather(self, values: list) -> list:
        """Return the values, plain ones, of all processes. Every process must call it."""
        if self.size == 1:
            return values
        lists: list[list] = [[] for _ in range(self.size)]
        dist.all_gather_object(lists, values, group=self.control)
        return [value for part in lists for value in part]


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join torchrun's processes (NCCL on CUDA, Gloo on CPU), or be the only one.

    device : see `data.device.pick_device`; "auto" without a GPU is the CPU.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "auto" and not torch.cuda.is_available():
        device = "cpu"
    chosen = pick_device(device, local_rank, local_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(rank, size, local_rank, local_size, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        control = dist.new_group(backend="gloo")
        yield World(rank, size, local_rank, local_size, chosen, control)
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """Return all processes' (B, ...) in the order of ranks, (size B, ...); no gradient."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor.contiguous())
    return torch.cat(tensors)


@torch.no_grad()
def own_share(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's run of rows of a tensor (size B, ...) that is the same everywhere."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


@torch.no_grad()
def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value

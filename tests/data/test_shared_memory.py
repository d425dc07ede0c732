"""Tensors of a loading process lie in shared memory, and a want of it is told."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data import shared_memory
from data.errors import UserError
from data.shared_memory import as_tensor, new_tensor


class Batches(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, number):
        big, empty = new_tensor((3, 100, 5), torch.uint8), new_tensor((0, 4), torch.float32)
        big.numpy()[...] = number
        small = as_tensor(np.array([number, -1]))
        return big, empty, small, [t.is_shared() for t in (big, empty, small)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_writes_arrives(workers):
    loader = DataLoader(Batches(), batch_size=None, num_workers=workers)
    for number, (big, empty, small, shared) in enumerate(loader):
        assert big.shape == (3, 100, 5) and big.dtype == torch.uint8 and (big == number).all()
        assert empty.shape == (0, 4) and empty.dtype == torch.float32
        assert small.tolist() == [number, -1]
        assert all(shared) == (workers > 0)


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device",
            UserError,
            r"no room for another 2\.4 MB of a batch; enlarge it .*--shm-size",
        ),
        ("something else", RuntimeError, "something else"),
    ],
)
def test_full_shared_memory(monkeypatch, error, expected, words):
    def full(size):
        raise RuntimeError(error)

    monkeypatch.setattr(shared_memory, "get_worker_info", lambda: "a worker")
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(expected, match=words):
        new_tensor((1000, 600), torch.float32)

"""The same training as anyone writes it in an afternoon, well: the peer of `pretrain`.

ImageFolder, all augmentations per sample on the CPU by torchvision, a DataLoader, autocast,
channels_last, cuDNN's fastest algorithms; instance discrimination with the whole bank as negatives,
its logits stored. It is not compiled, as a script of an afternoon is not. No copy-paste: that is
our extra.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import v2

from benchmarks.training.device import wait_for
from data.device import tune_cuda
from pretrain.build import in_bfloat16
from pretrain.settings import Settings

_MANY = 2**40  # samples


class Indexed(torchvision.datasets.ImageFolder):
    """ImageFolder that also says which image it is."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return super().__getitem__(index)[0], index


def plain_rate(
    settings: Settings, images: Path, workers: int, device: torch.device, seconds: float
) -> float:
    """Train for at least so many seconds after a warm-up; return images a second.

    Epochs follow each other without a pause, so that their number of images does not matter.
    """
    tune_cuda()
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(settings.image_size, (0.2, 1.0)),
            v2.RandomGrayscale(0.2),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.4),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    data = Indexed(images, transform)
    loader = DataLoader(
        data,
        settings.batch_size,
        sampler=RandomSampler(data, num_samples=_MANY),  # one permutation after another
        num_workers=workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
    )
    model = getattr(torchvision.models, settings.arch)(num_classes=settings.method.dim)
    model = model.to(device, memory_format=torch.channels_last).train()
    bank = F.normalize(torch.randn(len(data), settings.method.dim, device=device), dim=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    lowered = in_bfloat16(settings, device)
    warm_up = 3 + 2 * workers  # what was loaded while the first steps chose their algorithms
    started, count = 0.0, 0
    for step, (batch, index) in enumerate(loader):
        if step == warm_up:
            wait_for(device)
            started, count = time.perf_counter(), 0
        batch = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
        index = index.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=lowered):
            features = model(batch)
        features = F.normalize(features.float(), dim=1)
        loss = nn.functional.cross_entropy(features @ bank.T / 0.07, index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            bank[index] = F.normalize(0.5 * bank[index] + 0.5 * features, dim=1)
        count += len(index)
        if step >= warm_up and time.perf_counter() - started > seconds:
            wait_for(device)
            return count / (time.perf_counter() - started)
    raise AssertionError("the sampler ended")

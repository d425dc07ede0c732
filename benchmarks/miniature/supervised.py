"""A supervised network of the same size: what the features could be worth, had one the labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.training.device import current_device
from data.device import has_bfloat16, tune_cuda
from data.errors import UserError
from data.files import replacing
from data.images.labels import labels_from_folders
from data.images.listing import list_images
from data.processes import usable_cores
from data.schedule import learning_rate
from pretrain.parts.backbones import build_backbone, feature_dim
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import build_loader
from pretrain.views.recipes import ViewRecipe


def train_supervised(
    images: Path,
    weights: Path,
    *,
    arch: str,
    image_size: int,
    batch_size: int,
    epochs: int,
    seed: int,
    device: str,
    lr: float = 0.05,  # at any batch size
    workers: int | None = None,
) -> None:
    """Train by cross-entropy on random crops and flips; write the backbone's state_dict.

    SGD with momentum .9, weight decay 5e-4, a cosine from `lr`; bfloat16 where the device has it.

    workers : loading processes; None: one a core for a GPU, and one beside a network on the CPU.
    """
    place = current_device(device)
    cuda = place.type == "cuda"
    if workers is None:
        workers = usable_cores() if cuda else 1
    tune_cuda()
    keys = list_images(images)
    found = labels_from_folders(keys)
    if found is None:
        raise UserError(f"{images} has no class folders; a supervised network needs them.")
    recipe = ViewRecipe(image_size=image_size, gray=0.0, jitter=0.0)
    loader = build_loader(
        images,
        recipe=recipe,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        labels=found.labels,
        pin_memory=cuda,
        keys=keys,
    )
    torch.manual_seed(seed)
    backbone = build_backbone(arch)
    model = nn.Sequential(backbone, nn.Linear(feature_dim(arch), len(found.class_names)))
    model = model.to(place, memory_format=torch.channels_last)
    augment = DeviceAugment(recipe).to(place)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    try:
        for epoch in tqdm(range(epochs), desc="supervised", unit="epoch", disable=None):
            loader.set_epoch(epoch)
            for step, batch in enumerate(loader, epoch * len(loader)):
                rate = learning_rate(step, len(loader), base=lr, epochs=epochs, schedule="cosine")
                for group in optimizer.param_groups:
                    group["lr"] = rate
                batch = {
                    name: value.to(place, non_blocking=True)
                    for name, value in batch.items()
                    if isinstance(value, torch.Tensor)
                }
                (views,) = augment(batch)
                with torch.autocast(place.type, torch.bfloat16, enabled=has_bfloat16(place)):
                    loss = nn.functional.cross_entropy(model(views), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    finally:
        loader.close()
    weights.parent.mkdir(parents=True, exist_ok=True)
    with replacing(weights) as draft:
        torch.save({name: value.cpu() for name, value in backbone.state_dict().items()}, draft)

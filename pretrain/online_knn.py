"""The kNN figure while training: what the frozen backbone's features tell about the classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.errors import UserError
from data.images.labels import Labelled, labels_from_folders
from data.images.listing import list_images
from data.keys import Keys
from data.knn import weighted_knn
from data.loading import build_plain_loader, normalise
from pretrain.settings import Settings


@dataclass(frozen=True)
class OnlineKnn:
    """Weighted kNN of centre crops on the backbone's penultimate features.

    The images of `knn_images` are classified by those of `images`; without `knn_images`, a tenth of
    `images` by the rest. Of either at most `knn_limit` are taken, chosen by the seed.
    """

    settings: Settings
    train: Labelled
    test: Labelled
    workers: int

    @property
    def k(self) -> int:
        return min(self.settings.knn_k, len(self.train))

    def describe(self) -> str:
        """Return in words what is classified by what."""
        return (
            f"kNN of {len(self.test)} images in {self.test.root} by {len(self.train)} "
            f"(backbone features, k {self.k}, T {self.settings.knn_temperature})"
        )

    @torch.no_grad()
    def __call__(self, backbone: nn.Module, device: torch.device) -> float:
        """Return the top-1 accuracy in [0, 1]; the backbone is left as it was."""
        training = backbone.training
        backbone.eval()
        try:
            train, train_labels = self._features(self.train, backbone, device)
            test, test_labels = self._features(self.test, backbone, device)
        finally:
            backbone.train(training)
        k = min(self.k, len(train))  # of those that could be read
        scores = weighted_knn(train, train_labels, test, k, self.settings.knn_temperature)
        return float((scores.argmax(1) == test_labels).float().mean())

    def _features(
        self, side: Labelled, backbone: nn.Module, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (M, d) float32 and labels (M,) of the images that can be read."""
        loader = build_plain_loader(
            side.root,
            image_size=self.settings.image_size,
            batch_size=min(256, self.settings.batch_size),
            workers=self.workers,
            keys=side.keys,
            labels=side.labels,
            pin_memory=device.type == "cuda",
        )
        features, labels = [], []
        for batch in loader:
            if len(batch["index"]):
                images = normalise(batch["image"].to(device, non_blocking=True))
                features.append(backbone(images).float())
                labels.append(batch["label"].to(device, non_blocking=True))
        if not features:
            raise UserError(f"none of the images in {str(side.root)!r} can be read for the kNN.")
        return torch.cat(features), torch.cat(labels)


def build_online_knn(settings: Settings, keys: Keys, workers: int) -> OnlineKnn | None:
    """Return the online kNN, or None where the images have no labels, or it is not wanted."""
    classes = labels_from_folders(keys)
    if settings.knn_images is not None and settings.knn_every and classes is None:
        raise UserError(
            f"knn_images is {settings.knn_images!r}, and the images in {settings.images!r} lie in "
            "no class folders to classify it by; leave it out."
        )
    if not settings.knn_every or classes is None or len(keys) < 20:
        return None
    rng, limit = np.random.default_rng(settings.seed), settings.knn_limit
    order = rng.permutation(len(keys))
    everything = Labelled(Path(settings.images), keys, classes.labels, classes.class_names)
    if settings.knn_images is None:
        queries, order = np.split(order, [len(keys) // 10])
        test = everything.take(np.sort(queries[:limit]))
    else:
        others = _labelled_by(settings.knn_images, classes.class_names)
        test = others.take(np.sort(rng.permutation(len(others))[:limit]))
    return OnlineKnn(settings, everything.take(np.sort(order[:limit])), test, workers)


def _labelled_by(root: str, class_names: list[str]) -> Labelled:
    """List a labelled folder; its classes must be among `class_names`."""
    keys = list_images(root)
    classes = labels_from_folders(keys)
    if classes is None or not set(classes.class_names) <= set(class_names):
        raise UserError(
            f"knn_images {root!r} does not have the training images' class folders; give a folder "
            "that has, or leave it out."
        )
    renumber = np.array([class_names.index(name) for name in classes.class_names])
    return Labelled(Path(root), keys, renumber[classes.labels], class_names)

"""Random crops to train a linear probe on, and which images can be read at all."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms import RandomResizedCrop

from data.images.crop import crop_resize, reduction_for, snap_box
from data.images.decode import open_image
from data.loading import Batch, PlainDataset, Request, build_plain_loader, unreadable_of
from evaluate.labelled import Labelled
from evaluate.results import image_bar, none_readable

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a crop: share of the image's area, width / height


def random_crop(path: str, size: int) -> np.ndarray:
    """RandomResizedCrop(.08, 1) and flip of an image file, as linear probes are trained.

    The draws are torchvision's, from torch's generator, and so are the pixels: uint8 (size, size,
    3). Only a JPEG much larger than its crop is reduced while it is decoded, which moves the crop's
    borders by less than a pixel of it. Raises `UnreadableImage`.
    """
    image = open_image(path)
    of_this_size = torch.empty((3, *image.size), device="meta")
    box = RandomResizedCrop.get_params(of_this_size, list(SCALE), list(RATIO))
    pixels, reduction = image.decode(reduction_for([box], size))
    if reduction > 1:
        box = tuple(side // reduction for side in snap_box(box, reduction, image.size))
    crop = crop_resize(pixels, box, size)
    return crop[:, ::-1] if torch.rand(1).item() < 0.5 else crop


class TrainingImages(PlainDataset):
    """Random crops; `dataset[Request(epoch, indices)]` is a batch as `PlainDataset` makes it.

    A crop is drawn from (seed, epoch, index) alone, so that it depends neither on the number of
    workers nor on where a run was resumed.
    """

    def __init__(self, images: Labelled, size: int, seed: int):
        super().__init__(images.root, images.keys, size, images.labels)
        self.seed = seed

    def __getitem__(self, request: Request) -> Batch:
        """Return the batch of these images in this epoch."""

        def read(index: int, path: str) -> np.ndarray:
            state = np.random.SeedSequence((self.seed, request.epoch, index)).generate_state(1)
            torch.manual_seed(int(state[0]))
            return random_crop(path, self.image_size)

        with torch.random.fork_rng(devices=[]):
            return self.load(request.indices, read)


def readable(images: Labelled, workers: int) -> tuple[Labelled, dict[str, str]]:
    """The images that can be decoded, and why the others cannot: key -> reason."""
    loader = build_plain_loader(
        images.root, keys=images.keys, image_size=1, batch_size=64, workers=workers
    )
    rows, unreadable = [], {}
    with image_bar(len(images), "reading") as bar:
        for batch in loader:
            rows.append(batch["index"].numpy())
            unreadable |= unreadable_of(batch)
            bar.update(len(batch["index"]) + len(batch["unreadable"]))
    if len(unreadable) == len(images):
        raise none_readable(unreadable)
    return images.take(np.concatenate(rows)), unreadable

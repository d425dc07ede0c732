"""A detector's answers on the images of a split, in the images' own pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.device import computing_in
from data.loading import Loader
from evaluate.detection.annotated import Annotated, Detections
from evaluate.detection.coco import encode_mask
from evaluate.detection.dataset import EvaluationImages, on_device
from evaluate.detection.scores import results_of
from evaluate.detection.settings import Settings
from evaluate.results import image_bar
from pretrain.parts.distributed import World


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Annotated,
    settings: Settings,
    here: World,
    precision: torch.dtype | None,
    workers: int,
    title: str,
) -> list[dict]:
    """Return COCO's results of all images, in their order; each process computes its share.

    Images go one by one, so that no answer depends on its neighbours.
    """
    model.eval()
    rows = list(range(len(images)))[here.rank :: here.size]
    loader = Loader(EvaluationImages(images, settings), [[row] for row in rows], workers)
    answers = []
    with image_bar(len(rows), title) as bar:
        for row, (pixels,) in zip(rows, loader, strict=True):
            with computing_in(precision, here.device):
                (answer,) = model([on_device(pixels, here.device)])
            found = _in_own_pixels(answer, tuple(pixels.shape[1:]), images.sizes[row])
            answers.append((row, results_of(images.take([row]), [found])))
            bar.update()
    gathered = sorted(here.gather(answers), key=lambda pair: pair[0])
    return [result for _, results in gathered for result in results]


def _in_own_pixels(
    answer: dict[str, Tensor], scaled: tuple[int, int], size: tuple[int, int]
) -> Detections:
    """Scale boxes of an image of shape `scaled` to its own `size`; paste masks into it."""
    factors = torch.tensor([size[1] / scaled[1], size[0] / scaled[0]] * 2)
    boxes = answer["boxes"].float().cpu() * factors
    outlines = []
    if "masks" in answer:
        masks = answer["masks"].float().cpu()
        outlines = [
            encode_mask(paste_mask(mask[0], box, size).numpy() >= 0.5)
            for mask, box in zip(masks, boxes, strict=True)
        ]
    scores = answer["scores"].float().cpu().numpy().astype(np.float64)
    return Detections(boxes.numpy().astype(np.float64), scores, answer["labels"].cpu().numpy(),
                      outlines)  # fmt: skip


def paste_mask(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch a mask (m, m) over its box (4,) in an image: float32 (height, width).

    As detectron2 does, each pixel's centre is looked up by bilinear interpolation, beyond the mask
    in zeros; torchvision's `paste_masks_in_image` rounds the box to whole pixels first. More than a
    pixel outside the box all is 0: what interpolation leaves there is below one half.
    """
    pasted = torch.zeros(size)
    low, high = (box[:2].floor().long() - 1).clamp(min=0).tolist(), box[2:].ceil().long() + 1
    part = tuple(slice(low[axis], int(high[axis])) for axis in (1, 0))
    shares = [
        (torch.arange(length)[own] + 0.5 - box[axis]) / (box[axis + 2] - box[axis])
        for length, own, axis in zip(size, part, (1, 0), strict=True)
    ]
    rows, columns = torch.meshgrid(*shares, indexing="ij")
    grid = 2 * torch.stack([columns, rows], dim=2)[None] - 1
    pasted[part] = functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
    return pasted

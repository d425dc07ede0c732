"""`python -m benchmarks.locate RUN... IMAGES MASKS`: where does a CoDo-like network see the object?

Of each image a key's view, with its true box, and a query's view with candidate boxes: the true one
moved and scaled at random. Scored is the intersection over union of the true box and the candidate
whose points are nearest to the key's, over all levels; beside it the candidates' mean (chance), the
best there is, and the same network untrained. IMAGES should not be those that were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import torch

from data.errors import errors_told
from data.gallery import Cell, Gallery, Row
from data.run import Run
from evaluate.intervals import over_seeds
from pretrain.build import build_method, check_sizes
from pretrain.methods.codo import CoDo, boxes_of
from pretrain.parts.boxes import overlap, uniform_numbers
from pretrain.parts.colour import denormalised
from pretrain.parts.distributed import World
from pretrain.pictures import picture_of
from pretrain.settings import Settings, build_settings
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import build_loader

HERE = World(0, 1, 0, 1, torch.device("cpu"))
TRUE, FOUND = (255, 255, 255), (255, 140, 0)  # colours of boxes
SIDE = 180  # pixels of a cell of the picture


@dataclass(frozen=True)
class Located:
    """What a network chose on N images.

    overlaps : (N, 3): of the chosen candidate, of all on average, and of the best
    boxes : (N, 2, 4): the chosen one and the true one; top, left, height, width
    images : the first batch's views, the key's and the query's, float (2, B, 3, S, S) in [0, 1]
    """

    overlaps: np.ndarray
    boxes: np.ndarray
    images: torch.Tensor


def candidates(boxes: torch.Tensor, size: int, count: int, step: int) -> torch.Tensor:
    """Return boxes (B, count, 4) within the view: moved by up to their sides, of .5 to 2 times."""
    u = uniform_numbers(0, step, torch.arange(len(boxes)), 4 * count).view(-1, count, 4)
    centre = boxes[:, None, :2] + boxes[:, None, 2:] * (u[..., :2] * 2 - 0.5)
    sides = boxes[:, None, 2:] * 2 ** (2 * u[..., 2:] - 1)
    low = (centre - sides / 2).clamp(0, size - 4)
    high = torch.maximum((centre + sides / 2).clamp(0, size), low + 4)
    return torch.cat([low, high - low], 2)


@torch.no_grad()
def locate(method: CoDo, settings: Settings, count: int, limit: int) -> Located:
    """Let a network choose among `count` candidates in each of the first `limit` images or more."""
    loader = build_loader(
        settings.images, settings.masks, recipe=settings.view_recipe(),
        paste=settings.paste_settings(), batch_size=settings.batch_size, seed=settings.seed,
        allow_missing_masks=True,
    )  # fmt: skip
    augment, size = DeviceAugment(settings.view_recipe()), settings.image_size
    method.eval()
    overlaps, boxes, images = [], [], None
    for step, batch in enumerate(loader):
        index = torch.arange(len(batch["index"]))
        views = augment.views(batch, index, method.wants)
        query, key = (boxes_of(alpha) for alpha in views.alpha[:2])
        tried = candidates(query, size, count, step)
        maps = method.encoder_q.maps(views.images[0])
        points = method.encoder_q.points(
            maps, size, tried.flatten(0, 1), index.repeat_interleave(count)
        ).unflatten(0, (-1, count))  # (B, count, L, dim)
        keys = method.encoder_k(views.images[1], key)  # (B, L, dim)
        chosen = (points * keys[:, None]).sum((2, 3)).argmax(1)
        found = overlap(tried, query[:, None])  # (B, count)
        overlaps.append(torch.stack([found[index, chosen], found.mean(1), found.amax(1)], 1))
        boxes.append(torch.stack([tried[index, chosen], query], 1))
        if images is None:
            images = torch.stack([denormalised(view) for view in views.images[1::-1]])
        if len(overlaps) * settings.batch_size >= limit:
            break
    loader.close()
    return Located(torch.cat(overlaps).numpy(), torch.cat(boxes).numpy(), images)


def draw(found: dict[str, Located], rows: int = 6) -> Gallery:
    """Return keys and queries, with the boxes that each network chose and the true ones."""
    first = next(iter(found.values()))
    gallery = Gallery("Where is the key's object?", [], ["key", *found])
    for row in range(min(rows, first.images.shape[1])):
        cells = [Cell(_enlarged(first.images[0, row]))]
        for one in found.values():
            picture, scale = _enlarged(one.images[1, row]), SIDE / one.images.shape[-1]
            for box, colour in zip(one.boxes[row], (FOUND, TRUE), strict=True):
                top, left, height, width = (int(value) for value in (box * scale).round())
                cv2.rectangle(picture, (left, top, width, height), colour, 2)
            cells.append(Cell(picture, f"IoU {one.overlaps[row, 0]:.2f}"))
        gallery.rows.append(Row("", cells))
    return gallery


def _enlarged(image: torch.Tensor) -> np.ndarray:
    return cv2.resize(picture_of(image), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True)
@click.argument("images")
@click.argument("masks")
@click.option("--count", default=32, show_default=True, help="Candidate boxes of an image.")
@click.option("--limit", default=400, show_default=True, help="Images.")
@click.option("--picture", type=click.Path(path_type=Path), help="PNG of the last run's choices.")
def main(runs, images, masks, count, limit, picture) -> None:
    """Locate the objects of IMAGES by each of RUNS, and by the same networks untrained."""
    means: dict[str, list[float]] = {"untrained": [], "trained": []}
    with errors_told():
        for folder in runs:
            run = Run(folder)
            data = {"images": images, "masks": masks, "paste_probability": 1.0}
            settings = build_settings(run.saved(), data)
            sizes = check_sizes(settings, 10**9, 1)
            methods = {name: build_method(settings, sizes, HERE) for name in means}
            methods["trained"].load_state_dict(run.newest(("method",)).state["method"])
            found = {}
            for name, method in methods.items():
                found[name] = locate(method, settings, count, limit)
                chosen, chance, best = found[name].overlaps.mean(0)
                means[name].append(float(chosen))
                print(
                    f"{folder}, {name}: IoU {chosen:.3f} of {len(found[name].boxes)} images; "
                    f"chance {chance:.3f}, best candidate {best:.3f}",
                    flush=True,
                )
        for name, values in means.items() if len(runs) > 1 else ():
            mean, error = over_seeds(values)
            print(f"{name}: {mean:.3f} ± {error:.3f}, mean and standard error of {len(runs)} runs")
        if picture is not None:
            draw(found).save_png(picture, side=SIDE)


if __name__ == "__main__":
    main()

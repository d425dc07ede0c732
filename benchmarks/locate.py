"""`python -m benchmarks.locate RUN IMAGES MASKS`: does a CoDo-like network know where the box is?

Of each image a key's view, with its true box, and a query's view with candidate boxes: the true one
moved and scaled at random. Scored is the intersection over union of the true box and the candidate
whose points are nearest to the key's, over all levels; beside it the candidates' mean (chance), the
best there is, and the same network untrained. IMAGES should not be those that were trained on.
"""

from __future__ import annotations

import click
import numpy as np
import torch

from data.errors import errors_told
from data.run import Run
from pretrain.build import build_method, check_sizes
from pretrain.methods.codo import CoDo, boxes_of
from pretrain.parts.boxes import overlap, uniform_numbers
from pretrain.parts.distributed import World
from pretrain.settings import Settings, build_settings
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import build_loader

HERE = World(0, 1, 0, 1, torch.device("cpu"))


def candidates(boxes: torch.Tensor, size: int, count: int, step: int) -> torch.Tensor:
    """Return boxes (B, count, 4) within the view: moved by up to their sides, of .5 to 2 times."""
    u = uniform_numbers(0, step, torch.arange(len(boxes)), 4 * count).view(-1, count, 4)
    centre = boxes[:, None, :2] + boxes[:, None, 2:] * (u[..., :2] * 2 - 0.5)
    sides = boxes[:, None, 2:] * 2 ** (2 * u[..., 2:] - 1)
    low = (centre - sides / 2).clamp(0, size - 4)
    high = torch.maximum((centre + sides / 2).clamp(0, size), low + 4)
    return torch.cat([low, high - low], 2)


@torch.no_grad()
def located(method: CoDo, settings: Settings, count: int, limit: int) -> np.ndarray:
    """Return (N, 3): the overlap of the chosen candidate, of all on average, and of the best."""
    loader = build_loader(
        settings.images, settings.masks, recipe=settings.view_recipe(),
        paste=settings.paste_settings(), batch_size=settings.batch_size, seed=settings.seed,
        allow_missing_masks=True,
    )  # fmt: skip
    augment, size = DeviceAugment(settings.view_recipe()), settings.image_size
    method.eval()
    rows = []
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
        overlaps = overlap(tried, query[:, None])  # (B, count)
        parts = [overlaps[index, chosen], overlaps.mean(1), overlaps.amax(1)]
        rows.append(torch.stack(parts, 1))
        if len(rows) * settings.batch_size >= limit:
            break
    loader.close()
    return torch.cat(rows).numpy()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True)
@click.argument("images")
@click.argument("masks")
@click.option("--count", default=64, show_default=True, help="Candidate boxes of an image.")
@click.option("--limit", default=400, show_default=True, help="Images.")
def main(runs, images, masks, count, limit) -> None:
    """Locate the objects of IMAGES by each of RUNS."""
    with errors_told():
        for folder in runs:
            run = Run(folder)
            data = {"images": images, "masks": masks, "paste_probability": 1.0}
            settings = build_settings(run.saved(), data)
            sizes = check_sizes(settings, 10**9, 1)
            methods = {"untrained": build_method(settings, sizes, HERE)}
            trained = methods[folder] = build_method(settings, sizes, HERE)
            trained.load_state_dict(run.newest(("method",)).state["method"])
            for name, method in methods.items():
                chosen, mean, best = (
                    column for column in located(method, settings, count, limit).T
                )
                error = chosen.std(ddof=1) / len(chosen) ** 0.5
                print(
                    f"{name}: IoU {chosen.mean():.3f} (standard error {error:.3f}, {len(chosen)} "
                    f"images); chance {mean.mean():.3f}, best candidate {best.mean():.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""`python -m benchmarks.methods`: a training step of each method beside one of MoCo's.

Forward, backward, optimiser and the method's own update, on made-up views with a box in each; the
methods take turns, and the ratio is of medians over the rounds.
"""

from __future__ import annotations

import click
import torch

from benchmarks.in_turns import in_turns
from pretrain.build import build_method, build_optimizer, check_sizes
from pretrain.contract import Method, Views
from pretrain.methods import METHODS
from pretrain.parts.distributed import World, world
from pretrain.settings import Settings, build_settings


def made_up_views(method: Method, count: int, batch: int, size: int, device) -> Views:
    """Return random images whose object is the middle half of each side."""
    plane = torch.zeros(batch, 1, size, size, device=device)
    plane[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    rows = torch.arange(batch, device=device)
    layout = torch.channels_last
    images = [torch.randn(batch, 3, size, size, device=device) for _ in range(count)]
    box = torch.tensor([size / 4, size / 4, size / 2, size / 2], device=device)
    return Views(
        images=[image.contiguous(memory_format=layout) for image in images],
        index=rows,
        rows=rows,
        crops=box.expand(batch, count, 4),
        saliency=[plane] * count if "saliency" in method.wants else None,
        alpha=[plane] * count if "alpha" in method.wants else None,
        boxes=box.expand(batch, count, 4) if "boxes" in method.wants else None,
    )


class Steps:
    """Repeats one training step of a method."""

    def __init__(self, settings: Settings, here: World) -> None:
        sizes = check_sizes(settings, settings.batch_size * 1000, 1)
        self.method = build_method(settings, sizes, here)
        self.optimizer = build_optimizer(settings, self.method)
        recipe = settings.view_recipe()
        self.views = made_up_views(
            self.method, recipe.views, settings.batch_size, settings.image_size, here.device
        )

    def __call__(self, turn: int) -> None:
        loss, _ = self.method(self.views, 0)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.update()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("methods", nargs=-1, type=click.Choice(list(METHODS)))
@click.option("--arch", default="resnet50", show_default=True)
@click.option("--size", default=224, show_default=True, help="Side of a view in pixels.")
@click.option("--batch", default=32, show_default=True)
@click.option("--negatives", default=4096, show_default=True, help="Where a method takes them.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--device", "name", default="auto", show_default=True)
def main(methods, arch, size, batch, negatives, rounds, name) -> None:
    """Time a step of METHODS (default: all) beside one of MoCo's."""
    common = {"arch": arch, "image_size": size, "batch_size": batch, "device": name}
    names = ["moco", *(n for n in methods or METHODS if n != "moco")]
    with world(name) as here:
        steps = {}
        for method in names:
            own = build_settings({"method": method}).method
            takes = {"negatives": negatives} if hasattr(own, "negatives") else {}
            steps[method] = Steps(build_settings(common, {"method": method}, takes), here)
        seconds = in_turns(steps, rounds, here.device)
    print(f"{arch}, {size} px, batch {batch}, {here.device.type}, {rounds} rounds")
    for method, median in seconds.items():
        print(f"{method:15} {1e3 * median:8.1f} ms  {median / seconds['moco']:5.2f} of moco")


if __name__ == "__main__":
    main()

"""What the input side costs on one core: decode, crop, masks, copy-paste; torchvision beside it.

    python -m benchmarks.loader IMAGES [--masks MASKS] [--textures FOLDER]

IMAGES is a folder of photographs (JPEGs of about 500x375 for the figures in docs). Without --masks
their RBD masks are computed first, into a temporary folder. All rows are measured in one process on
one thread, in turns, by processor time, so that their ratios hold on a machine that is not idle;
medians over turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from tabulate import tabulate
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks.in_turns import in_turns
from data.backgrounds.pool import BackgroundPool, PoolSettings, build_pool
from data.images.crop import box_within, crop_resize, sample_box
from data.images.decode import decode
from data.images.listing import key_path
from pretrain.views.augment import DeviceAugment
from pretrain.views.dataset import Request, ViewDataset
from pretrain.views.draws import draw_view, uniforms
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe, instdisc, moco_v2

BATCH = 32


def torchvision_views(images: Path, recipe: ViewRecipe) -> Callable[[int], object]:
    """The same recipe as everybody writes it: ImageFolder, Pillow, all augmentations per sample."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(recipe.image_size, recipe.scale),
            v2.RandomGrayscale(recipe.gray),
            v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue),
            v2.RandomHorizontalFlip(recipe.flip),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(recipe.mean, recipe.std),
        ]
    )
    folder = datasets.ImageFolder(images, transform)

    def load(turn: int) -> torch.Tensor:
        return torch.stack([folder[int(i)][0] for i in indices(turn, len(folder))])

    return load


def indices(turn: int, count: int) -> np.ndarray:
    """The turn's images: the same for every row."""
    return np.random.default_rng(turn).permutation(count)[:BATCH]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--textures", type=Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        masks = arguments.masks
        if masks is None:
            masks = Path(folder) / "masks"
            command = [sys.executable, "-m", "saliency", arguments.images, masks]
            subprocess.run([*map(str, command), "--method", "rbd"], check=True)
        measure(arguments, masks, Path(folder))


def measure(arguments: argparse.Namespace, masks: Path, folder: Path) -> None:
    """Measure everything in turns and print it."""
    images, recipe = arguments.images, instdisc(arguments.image_size)
    pool = folder / "pool.h5"
    report = build_pool(images, [masks], pool, PoolSettings(threshold=0.3, min_side=64))

    def dataset(
        paste: PasteSettings | None,
        decode_on: torch.device | None = None,
        recipe: ViewRecipe = recipe,
        **options: bool,
    ) -> ViewDataset:
        loader = build_loader(
            images,
            masks,
            recipe=recipe,
            paste=paste,
            batch_size=1,
            allow_missing_masks=True,
            decode_on=decode_on,
            **options,
        )
        return loader.dataset

    plain = dataset(None)
    pasting = {
        "grayscale": PasteSettings(),
        "grayscale, mix": PasteSettings(blend="mix"),
        "grayscale, gaussian": PasteSettings(blend="gaussian"),
        "imagenet": PasteSettings(background="imagenet", background_pool=str(pool)),
        "imagenet, mix": PasteSettings(
            background="imagenet", background_pool=str(pool), blend="mix"
        ),
        "mask-swap": PasteSettings(background="mask-swap"),
        "box-swap": PasteSettings(background="box-swap"),
    }
    if arguments.textures:
        pasting["texture"] = PasteSettings(
            background="texture", background_pool=str(arguments.textures)
        )
    pasted = {name: dataset(paste) for name, paste in pasting.items()}
    undecoded = dataset(PasteSettings(), torch.device("cpu"))
    about = recipe.model_copy(update={"crop": "object"})
    more = {"grayscale, crop = object": dataset(PasteSettings(), recipe=about)}
    more["grayscale, negative"] = dataset(PasteSettings(), negative=True)
    two, first = moco_v2(arguments.image_size), {"paste_views": "first"}
    for name in ("grayscale", "mask-swap", "box-swap"):
        paste = PasteSettings(background=name, **first)
        more[f"two views, the first on {name}"] = dataset(paste, recipe=two)
    shards, rows = pasted["grayscale"].masks, pasted["grayscale"].rows.rows
    crops, keys = BackgroundPool(pool), plain.keys
    augment = DeviceAugment(recipe)
    batches: dict[int, dict] = {}

    def decode_all(turn: int) -> None:
        for index in indices(turn, len(keys)):
            decode(key_path(images, keys[int(index)]))

    def decode_and_crop(turn: int) -> None:
        for index in indices(turn, len(keys)):
            image, size = decode(key_path(images, keys[int(index)]))
            draw = draw_view(recipe, None, uniforms(0, turn, int(index), 0), size)
            crop_resize(image, draw.box, recipe.image_size)

    def decode_and_crop_both(probability: float) -> Callable[[int], None]:
        paste = PasteSettings(paste_probability=probability)

        def one(turn: int) -> None:
            for index in indices(turn, len(keys)):
                image, size = decode(key_path(images, keys[int(index)]))
                draw = draw_view(recipe, paste, uniforms(0, turn, int(index), 0), size)
                crop_resize(image, draw.box, recipe.image_size)
                if draw.paste and rows[index] >= 0:
                    mask = shards.read(int(rows[index]))
                    box = box_within((0, 0, *mask.shape), draw.box, size)
                    sample_box(mask, box, (recipe.image_size, recipe.image_size))

        return one

    def read_masks(turn: int) -> None:
        for index in indices(turn, len(keys)):
            if rows[index] >= 0:
                shards.read(int(rows[index]))

    def read_backgrounds(turn: int) -> None:
        for index in indices(turn, len(crops)):
            crops.read(int(index) % len(crops))

    def augment_batch(turn: int) -> None:
        augment(batches[turn])

    def load(source: ViewDataset) -> Callable[[int], object]:
        def one(turn: int) -> dict:
            batch = source[Request(turn, indices(turn, len(keys)))]
            if source is pasted["grayscale"]:
                batches[turn] = batch
            return batch

        return one

    measured = {
        "decode": decode_all,
        "decode and crop": decode_and_crop,
        "decode and crop, image and mask, p .5": decode_and_crop_both(0.5),
        "decode and crop, image and mask, p 1": decode_and_crop_both(1.0),
        "read a mask": read_masks,
        "read a background of the pool": read_backgrounds,
        "loader, nothing pasted": load(plain),
        **{f"loader, {name}": load(source) for name, source in (pasted | more).items()},
        "a worker under decode = device": load(undecoded),
        "device's augmentation, on this core": augment_batch,
        "torchvision: ImageFolder, all on CPU": torchvision_views(images, recipe),
    }
    seconds = in_turns(measured, arguments.turns)
    seconds["read a background of the pool"] *= BATCH / min(BATCH, len(crops))
    base, plain_time = seconds["decode and crop"], seconds["loader, nothing pasted"]
    table = []
    for name, value in seconds.items():
        against = ""
        if name.startswith("loader, ") and value != plain_time:
            against = f"{100 * (1 - plain_time / value):.1f}% fewer images/s"
        table.append([name, BATCH / value, 1e3 * value / BATCH, value / base, against])
    print(
        tabulate(
            table,
            [
                "one view, one core",
                "images/s",
                "ms",
                "to decode and crop",
                "against nothing pasted",
            ],
            floatfmt=("", ".0f", ".3f", ".3f", ""),
        )
    )
    whole = seconds["loader, grayscale"] + seconds["device's augmentation, on this core"]
    theirs = seconds["torchvision: ImageFolder, all on CPU"]
    print(
        f"\n{len(keys)} images, views of {recipe.image_size} px, copy-paste with probability "
        f"{pasting['grayscale'].paste_probability}; a pool of {report.crops} crops.\n"
        f"Per pasted view a mask costs {seconds['read a mask'] / base:.1%} of an image's decode "
        f"and crop, and {0.5 * seconds['read a mask'] / base:.1%} per view.\n"
        f"Loader and augmentation, all on this core, with copy-paste: {theirs / whole:.2f} times "
        f"torchvision's images/s without it."
    )
    for views in ("", "two views, the first on "):
        gray = seconds[f"loader, {views}grayscale"]
        ratios = [
            f"{1 - gray / seconds[f'loader, {views}{name}']:.1%} fewer with {name}"
            for name in ("mask-swap", "box-swap")
        ]
        print(f"Images/s against {views}grayscale: {', '.join(ratios)}.")


if __name__ == "__main__":
    main()

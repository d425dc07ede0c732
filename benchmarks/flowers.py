"""`python -m benchmarks.flowers IMAGES MASKS OUT`: what swaps and alignment do to MoCo v2.

IMAGES holds a folder for each class (Oxford Flowers 17), MASKS their shards by RBD. Every fifth
image of a class is held out; the others are trained on, all rows with the same budget. Judged are a
linear classifier, kNN, fine-tuning, and where the map of similarities lies: each cell of the last
layer against the object's vector of the mirrored image, pooled by its mask. `pointing` is the share
of images whose highest cell lies in the mask, `IoU` that of the map above one half of its range
with the mask above one half. Where --true gives other images with their true masks, the vector is
still pooled by RBD's mask, and the map is compared with the true one.

Seeds are the outer loop, and what is done is not done again: the same command goes on.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
import torch
from tabulate import tabulate
from torch.nn import functional

from data.errors import UserError, errors_told
from data.files import write_whole
from data.images import IMAGENET_MEAN, IMAGENET_STD
from data.images.crop import crop_resize
from data.images.decode import decode
from data.images.listing import key_path, list_images
from data.masks.picture import read_mask
from data.masks.read import MaskShards
from demo.commands import run
from evaluate.checkpoints import load_checkpoint
from pretrain.parts.pyramid import stage_maps
from pretrain.settings import build_settings
from pretrain.trainer import train

UNTRAINED = "untrained"
ROWS: dict[str, dict[str, object] | None] = {
    UNTRAINED: None,
    "MoCo v2": {"paste_probability": 0.0},
    "+ grayscale paste": {"background": "grayscale"},
    "+ box swap": {"background": "box-swap", "paste_views": "first"},
    "+ mask swap": {"background": "mask-swap", "paste_views": "first"},
    "+ alignment": {"method": "cvsa", "paste_probability": 0.0},
    "+ box swap and alignment": {"method": "cvsa"},
}
# As in the demo: what makes few steps of small pictures worth anything (docs/pretrain.md).
COMMON: dict[str, object] = {
    "method": "moco", "arch": "resnet18", "recipe": "moco-v2", "schedule": "cosine", "mlp": True,
    "head_norm": True, "temperature": 0.2, "negatives": 512, "key_momentum": 0.99, "bn_groups": 2,
    "scale": [0.4, 1.0], "blur": 0.0, "batch_size": 32, "lr": 0.03, "lr_batch": "fixed",
    "precision": "native", "knn_every": 0, "allow_missing_masks": True,
}  # fmt: skip
FIGURES = ("linear", "knn", "finetune", "pointing", "IoU", "true pointing", "true IoU")


def split(images: Path, out: Path) -> Path:
    """Return a folder with train/ and val/, links to the images: every fifth of a class is val."""
    folder = out / "images"
    for row, key in enumerate(list_images(images)):
        target = folder / ("val" if row % 5 == 4 else "train") / key
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_symlink():
            target.symlink_to(Path(key_path(images, key)).resolve())
    return folder


def whole(pixels: np.ndarray, size: int) -> np.ndarray:
    """An image or mask, uint8 (h, w, ...), stretched to size x size."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    return crop_resize(pixels, (0, 0, *pixels.shape[:2]), size)


@torch.no_grad()
def located(
    network: torch.nn.Module, images: Path, masks: MaskShards, truth: Path | None, size: int,
    limit: int,
) -> dict[str, float]:  # fmt: skip
    """Return the share of maps that point into the mask, and their mean IoU with it."""
    network.eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    points, overlaps = [], []
    keys = list_images(images)
    for row in range(0, len(keys), max(1, len(keys) // limit)):
        key = keys[row]
        mask = masks.read(key) if key in masks else np.zeros((0, 0), np.uint8)
        if not mask.size or mask.max() < 128:
            continue
        x = torch.from_numpy(whole(decode(key_path(images, key)).image, size)).permute(2, 0, 1)
        x = (x / 255 - mean) / std
        seen = torch.from_numpy(whole(mask, size))[..., 0] / 255
        maps = functional.normalize(stage_maps(network, torch.stack([x, x.flip(-1)]))["3"], dim=1)
        pooled = functional.adaptive_avg_pool2d(seen.flip(-1)[None], maps.shape[2:])
        vector = functional.normalize((maps[1] * pooled).sum((1, 2)), dim=0)
        product = torch.einsum("dhw,d->hw", maps[0], vector)
        product = (product - product.min()) / (product.max() - product.min() + 1e-6)
        product = functional.interpolate(product[None, None], (size, size), mode="bilinear")[0, 0]
        if truth is not None:
            true = read_mask(next(truth.glob(Path(key).stem + ".*")))
            seen = torch.from_numpy(whole(true, size))[..., 0] / 255
        inside = seen > 0.5
        points.append(float(inside.flatten()[product.argmax()]))
        found = product > 0.5
        overlaps.append(float((found & inside).sum() / (found | inside).sum().clamp_min(1)))
    return {"pointing": float(np.mean(points)), "IoU": float(np.mean(overlaps))}


def judge(
    checkpoint: str | Path, data: Path, masks: Path, folder: Path, size: int, finetuned: int, **true
) -> dict[str, float]:  # fmt: skip
    """Return a network's figures; each is kept in a folder."""
    common = (data, "--image-size", size, "--device", "cpu", "--workers", 1)
    probes = {"knn": ("--k", 20), "linear": ("--fast",)}
    if finetuned:
        probes["finetune"] = ("--epochs", finetuned, "--batch-size", 64, "--lr", 0.02)
    figures = {}
    for probe, options in probes.items():
        if not (folder / probe / "results.json").exists():
            run("probe", probe, checkpoint, *common, *options, "--out", folder / probe)
        results = json.loads((folder / probe / "results.json").read_text("utf-8"))
        figures[probe] = results.get("rows", [results])[0]["top1"]
    path = folder / "located.json"
    if not path.exists():
        write_whole(path, json.dumps(_located(checkpoint, data, masks, size, **true)))
    return figures | json.loads(path.read_text("utf-8"))


def _located(
    checkpoint: str | Path, data: Path, masks: Path, size: int, limit: int, **true: Path | None
) -> dict[str, float]:
    network = load_checkpoint(checkpoint).model
    figures = located(network, data / "val", MaskShards(masks), None, 2 * size, limit)
    if true["photographs"] is not None:
        shards = MaskShards(true["rbd"])
        scores = located(network, true["photographs"], shards, true["truth"], 2 * size, limit)
        figures |= {f"true {name}": value for name, value in scores.items()}
    return figures


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("images", type=click.Path(path_type=Path, exists=True))
@click.argument("masks", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--true",
    nargs=3,
    type=click.Path(path_type=Path, exists=True),
    default=(None,) * 3,
    help="Images, their RBD shards, their true masks as pictures.",
)
@click.option("--size", default=96, show_default=True, help="Side of a view in pixels.")
@click.option("--epochs", default=100, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option(
    "--finetuned", default=10, show_default=True, help="Epochs of fine-tuning; 0: not judged."
)
@click.option("--limit", default=300, show_default=True, help="Images to locate objects in.")
def main(images, masks, out, true, size, epochs, seeds, finetuned, limit) -> None:  # fmt: skip
    """Train all rows on IMAGES and print the table of what is there, after every run."""
    with errors_told():
        data = split(images, out)
        options = dict(zip(("photographs", "rbd", "truth"), true, strict=True))
        options |= {"limit": limit, "finetuned": finetuned}
        figures = defaultdict(list)
        for seed in range(seeds):
            for name, row in ROWS.items():
                folder = out / "runs" / f"{name.strip('+ ').replace(' ', '-')}-{seed}"
                given = {
                    "images": str(data / "train"), "masks": str(masks), "image_size": size,
                    "epochs": epochs, "seed": seed, "device": "cpu", "workers": 0,
                }  # fmt: skip
                if row is not None and not (folder / "backbone.pt").exists():
                    train(build_settings(COMMON, row, given), folder, resume=True)
                    if not (folder / "backbone.pt").exists():
                        raise UserError("stopped; the same command goes on.")
                checkpoint = f"random:resnet18#{seed}" if row is None else folder
                probes = out / "probes" / folder.name
                figures[name].append(judge(checkpoint, data, masks, probes, size, **options))
                print(table(figures, epochs, size), flush=True)


def table(figures: dict[str, list[dict]], epochs: int, size: int) -> str:
    """Return the rows' means over seeds, with the standard deviation where there are several."""
    lines = []
    for name, runs in figures.items():
        line: list[object] = [name, len(runs)]
        for figure in (figure for figure in FIGURES if figure in runs[0]):
            values = [100 * run[figure] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            line.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(line)
    headers = ["row", "seeds", *(figure for figure in FIGURES if figure in figures[UNTRAINED][0])]
    return f"ResNet-18, {size} px, {epochs} epochs, %\n" + tabulate(
        lines, headers, tablefmt="github"
    )


if __name__ == "__main__":
    main()

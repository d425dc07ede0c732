"""How detectors are trained: the published protocols, and what a user puts in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from data.errors import UserError
from data.options import Count, NotNegative, Record, build, one_of, parse_assignment, setting
from evaluate.options import Positive

PUBLISHED_IMAGES = 16  # a step, in all protocols
_Side = Annotated[int, Field(ge=32)]
_Anchor = Annotated[int, Field(ge=4)]


class Settings(Record):
    """A training; the defaults are those of all protocols. Steps and images are over all GPUs."""

    detector: Annotated[str, one_of(("c4", "fpn"))] = setting(
        "c4", "Faster R-CNN on stage 4 (c4), or Mask R-CNN on a feature pyramid (fpn)"
    )
    images_per_step: Count = setting(PUBLISHED_IMAGES, "images in a step")
    steps: Count = setting(9000, "steps of training")
    milestones: tuple[Count, ...] = setting((), "steps at which the rate is cut to a tenth")
    lr: Positive = setting(0.02, "learning rate")
    warmup_steps: NotNegative = setting(1000, "steps over which the rate rises from a thousandth")
    momentum: Annotated[float, Field(ge=0, lt=1)] = setting(0.9, "of SGD")
    weight_decay: Annotated[float, Field(ge=0)] = setting(1e-4, "of all weights but norms'")
    train_sides: Annotated[tuple[_Side, ...], Field(min_length=1)] = setting(
        tuple(range(640, 801, 32)), "short sides of images in training, one drawn for each image"
    )
    test_side: _Side = setting(800, "short side of images in testing")
    longest_side: _Side = setting(1333, "no side of an image is longer")
    anchors: Annotated[tuple[_Anchor, ...], Field(min_length=1)] = setting(
        (32, 64, 128, 256, 512), "sides of square anchors; one for each of a pyramid's five levels"
    )
    proposals_train: Count = setting(2000, "proposals of an image in training")
    proposals_test: Count = setting(1000, "proposals of an image in testing")
    regions: Count = setting(512, "proposals of an image that losses are computed of")
    pooled: Annotated[int, Field(ge=2)] = setting(
        14, "side of a region before stage 5 halves it (c4)"
    )
    precise_bn: NotNegative = setting(
        200, "batches that batch norms' statistics are measured over before testing; 0: none"
    )


@dataclass(frozen=True)
class Protocol:
    """A published training and what it is tested on.

    train : VOC's years, or COCO's split; test : likewise
    """

    data: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    settings: dict[str, Any]


def _voc(years: tuple[str, ...], steps: int, milestones: tuple[int, ...]) -> Protocol:
    sides = tuple(range(480, 801, 32))
    own = {"detector": "c4", "warmup_steps": 100, "train_sides": sides}
    return Protocol("voc", years, ("2007",), {**own, "steps": steps, "milestones": milestones})


def _coco(steps: int, milestones: tuple[int, ...]) -> Protocol:
    own = {"detector": "fpn", "proposals_train": 1000, "steps": steps, "milestones": milestones}
    return Protocol("coco", ("train2017",), ("val2017",), own)


# MoCo's detection/configs; 9k steps and the fractions .75, .917 at which the rate falls: VOC07
PROTOCOLS = {
    "voc07": _voc(("2007",), 9000, (6750, 8250)),
    "voc0712": _voc(("2007", "2012"), 24000, (18000, 22000)),
    "coco-1x": _coco(90000, (60000, 80000)),
    "coco-2x": _coco(180000, (120000, 160000)),
}


def build_settings(protocol: str, assignments: Sequence[str]) -> Settings:
    """Return a protocol's settings with `name=value` in their place.

    With other than 16 images a step, rate and steps follow the linear rule (Goyal et al. 2017), as
    far as they are not given: rate * n / 16, steps and warm-up * 16 / n. Milestones move along with
    the steps.
    """
    given: dict[str, Any] = {}
    for text in assignments:
        given |= parse_assignment(text, Settings)
    published = PROTOCOLS[protocol].settings
    plain = build(Settings, published, given)
    share = plain.images_per_step / PUBLISHED_IMAGES
    ruled = {
        "lr": plain.lr * share,
        "steps": max(1, round(plain.steps / share)),
        "warmup_steps": round(plain.warmup_steps / share),
    }
    steps = given.get("steps", ruled["steps"])
    moved = [round(step * steps / published["steps"]) for step in published["milestones"]]
    settings = build(Settings, published, ruled, {"milestones": [max(1, m) for m in moved]}, given)
    if settings.detector == "fpn" and len(settings.anchors) != 5:
        raise UserError(
            f"the setting anchors has {len(settings.anchors)} sides; give five for a pyramid, one "
            "for each level."
        )
    return settings


def rule(settings: Settings, protocol: str, norm: int) -> str:
    """Say in a sentence how rate and steps came about, and over how many images batch norm is."""
    own, published = settings.images_per_step, build(Settings, PROTOCOLS[protocol].settings)
    lr = published.lr * own / PUBLISHED_IMAGES
    steps = round(published.steps * PUBLISHED_IMAGES / own)
    text = f"{own} images a step, learning rate {settings.lr:g}, {settings.steps} steps"
    if own != PUBLISHED_IMAGES:
        text += (
            f" (published {PUBLISHED_IMAGES}, {published.lr:g} and {published.steps}; by the "
            f"linear rule {lr:g} = {published.lr:g} x {own}/{PUBLISHED_IMAGES} and {steps} = "
            f"{published.steps} x {PUBLISHED_IMAGES}/{own})"
        )
    return f"{text}; batch norm over {norm} images (published {PUBLISHED_IMAGES})."

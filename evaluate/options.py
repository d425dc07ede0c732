"""Records of options that several probes share: a probe's own record inherits them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from data.options import Record, setting

PENULTIMATE = "penultimate"  # the layer that a network's classifier reads
MASK_THRESHOLD = 128  # a mask is foreground from this level on

FLOAT32_MAX = 3.4e38
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, le=FLOAT32_MAX)]


class ResultOptions(Record):
    """Where results go, and what the terminal shows."""

    out: Path | None = setting(
        None,
        "folder for the results",
        shown_default="probe-output/<probe>-<number>",
        heading="Results",
    )
    overwrite: bool = setting(
        False, "replace results that are in the folder --out", heading="Results"
    )
    as_json: bool = setting(
        False,
        "print the results as JSON in place of the table",
        names=("--json",),
        heading="Results",
    )


class NetworkOptions(Record):
    """How images go through a network. The command runs in full float32: `without_tf32`."""

    arch: str | None = setting(
        None,
        "torchvision's name of the network, where the weights do not tell",
        heading="Network",
    )
    layer: str = setting(
        PENULTIMATE,
        "which features: a module's name, such as layer4; maps are averaged over space",
        heading="Network",
    )
    image_size: Annotated[int, Field(ge=16)] | None = setting(
        None,
        "side of the centre crop, after a resize of the short side to 256/224 of it",
        shown_default="the size that a checkpoint of pretrain was trained at, else 224",
        heading="Network",
    )
    batch_size: Count = setting(256, "images in a batch", heading="Network")
    workers: Seed | None = setting(
        None,
        "processes that load images",
        shown_default="one for each core, at most 16",
        heading="Network",
    )
    device: str = setting("auto", "where to compute: cpu, cuda, cuda:1, mps", heading="Network")


class ComparisonOptions(NetworkOptions, ResultOptions):
    """Several networks on the same labelled images."""

    checkpoints: tuple[str, ...] = setting(
        ..., "networks to compare", argument=True, metavar="CHECKPOINT..."
    )
    images: Path = setting(..., "labelled images", argument=True)


class MaskOptions(Record):
    """Foregrounds of the images."""

    masks: Path | None = setting(None, "mask shards or pictures")
    mask_threshold: Annotated[int, Field(ge=1, le=255)] = setting(
        MASK_THRESHOLD, "a mask is foreground from this level on"
    )

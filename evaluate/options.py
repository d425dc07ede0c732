"""Records of options that several probes share: a probe's own record inherits them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from data.options import Count, NotNegative, Record, setting
from data.processes import usable_cores

PENULTIMATE = "penultimate"  # the layer that a network's classifier reads
MOST_WORKERS = 16  # that load images, where the user does not say
MASK_THRESHOLD = 128  # a mask is foreground from this level on

FLOAT32_MAX = 3.4e38
Positive = Annotated[float, Field(gt=0, le=FLOAT32_MAX)]

_result = partial(setting, heading="Results")
_network = partial(setting, heading="Network")


class ResultOptions(Record):
    """Where results go, and what the terminal shows."""

    out: Path | None = _result(
        None, "folder for the results", shown_default="probe-output/<probe>-<number>"
    )
    overwrite: bool = _result(False, "replace results that are in the folder --out")
    as_json: bool = _result(
        False, "print the results as JSON in place of the table", names=("--json",)
    )


class LoadingOptions(Record):
    """A network by name, who loads images for it, and where it computes."""

    arch: str | None = _network(
        None, "torchvision's name of the network, where the weights do not tell"
    )
    workers: NotNegative | None = _network(
        None, "processes that load images", shown_default="one for each core, at most 16"
    )
    device: str = _network("auto", "where to compute: cpu, cuda, cuda:1, mps")

    @property
    def loading_workers(self) -> int:
        """How many processes load images."""
        return min(usable_cores(), MOST_WORKERS) if self.workers is None else self.workers


class NetworkOptions(LoadingOptions):
    """How images go through a network. The command runs in full float32: `without_tf32`."""

    layer: str = _network(
        PENULTIMATE,
        "which features: a module's name, such as layer4; maps are averaged over space",
    )
    image_size: Annotated[int, Field(ge=16)] | None = _network(
        None,
        "side of the centre crop, after a resize of the short side to 256/224 of it",
        shown_default="the size that a checkpoint of pretrain was trained at, else 224",
    )
    batch_size: Count = _network(256, "images in a batch")


class ComparisonOptions(NetworkOptions, ResultOptions):
    """Several networks on the same labelled images."""

    checkpoints: tuple[str, ...] = setting(
        ..., "networks to compare", argument=True, metavar="CHECKPOINT..."
    )
    images: Path = setting(..., "labelled images", argument=True)


class PoolOptions(Record):
    """How a network's last map becomes features."""

    pool: Literal["plain", "mask"] = setting(
        "plain", "average over all positions, or over the foreground alone (DiLo's naive approach)"
    )
    masks: Path | None = setting(None, "mask shards or pictures of IMAGES, for --pool mask")


class MaskOptions(Record):
    """Foregrounds of the images."""

    masks: Path | None = setting(None, "mask shards or pictures")
    mask_threshold: Annotated[int, Field(ge=1, le=255)] = setting(
        MASK_THRESHOLD, "a mask is foreground from this level on"
    )

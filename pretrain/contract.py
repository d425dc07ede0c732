"""The contract between views and methods: what a method sees, declares and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from data.options import Record, setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pretrain.settings import Settings

OPTIONAL = frozenset({"saliency", "alpha", "boxes", "negative"})
"""The parts of `Views` that are made only for a method that has them in `wants`."""


@dataclass(frozen=True)
class Views:
    """All that a method sees of a batch of B images in V views of S x S pixels, on its device.

    images : V x (B, 3, S, S) float32, augmented and normalised.
    index : int64 (B,), which images of the data set.
    rows : int64 (B,), rows of these samples in the global batch.
    crops : float32 (B, V, 4), each view's box in the image: top, left, height, width in pixels.
    saliency : V x (B, 1, S, S) float32 in [0, 1], the true mask of each view, cut by its box and
        flipped with it, pasted or not; 0 everywhere where an image has no mask. None: not wanted.
    alpha : V x (B, 1, S, S) float32 in [0, 1], what copy-paste used, 1 where nothing was pasted,
        flipped with the view. None: not wanted.
    boxes : float32 (B, V, 4), the tight box of saliency > .5 in the view: top, left, height, width
        in the view's pixels; 0 where there is no such pixel. None: not wanted.
    negative : (B, 3, S, S), like a view: another image's object on the first view's background.
        None: not wanted.
    """

    images: list[Tensor]
    index: Tensor
    rows: Tensor
    crops: Tensor
    saliency: list[Tensor] | None = None
    alpha: list[Tensor] | None = None
    boxes: Tensor | None = None
    negative: Tensor | None = None

    def chunk(self, parts: int) -> list[Views]:
        """Return the batch in `parts` equal parts; B must be a multiple of it."""

        def split(value: Any) -> list[Any]:
            if value is None:
                return [None] * parts
            if isinstance(value, list):
                return [list(part) for part in zip(*map(split, value), strict=True)]
            return list(value.chunk(parts))

        columns = {field.name: split(getattr(self, field.name)) for field in fields(self)}
        return [Views(**{n: column[i] for n, column in columns.items()}) for i in range(parts)]


@dataclass(frozen=True)
class Sizes:
    """What a method is built for.

    images : N, in the data set.
    processes : that train together.
    groups : batch-norm groups of a process's part of the batch.
    group : images of each of them.
    """

    images: int
    processes: int
    groups: int
    group: int


class MethodSettings(Record):
    """The `[method]` table; a method's own settings are a record derived from this."""

    name: str = setting("", "pretraining method")


class Method:
    """A pretraining method; a class derives from it and from `torch.nn.Module`.

    Settings : record of its `[method]` table.
    views : V, how many of each image it takes; where its settings say so, see `count_views`.
    wants : which of the optional parts of `Views` it uses (`OPTIONAL`); where its settings say so,
        see `wanted`.
    groups : batch-norm groups of the global batch by default; 0: one for each process.
    defaults : of the run's settings, where this method needs others than the rest.

    Its state is its `state_dict`; what `forward` keeps for `update` is not part of it.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    views: ClassVar[int] = 1
    wants: ClassVar[frozenset[str]] = frozenset()
    groups: ClassVar[int] = 0
    defaults: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def count_views(cls, settings: MethodSettings) -> int:
        """Return V; for methods whose settings decide on it."""
        return cls.views

    @classmethod
    def wanted(cls, settings: MethodSettings) -> frozenset[str]:
        """Return which optional parts it uses; for methods whose settings decide on it."""
        return cls.wants

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse, by UserError, settings that do not fit the data or the sizes."""

    @classmethod
    def build(cls, settings: Settings, sizes: Sizes) -> Method:
        """Return the method with fresh weights from torch's global generator, on the CPU."""
        raise NotImplementedError

    @classmethod
    def chance_loss(cls, settings: Settings, images: int) -> float | None:
        """Return the loss of a network that knows nothing; None: there is no such figure."""
        return None

    @classmethod
    def notes(cls, settings: Settings, sizes: Sizes) -> list[str]:
        """Return what is said of the method before a run, in sentences."""
        return []

    @property
    def backbone(self) -> torch.nn.Module:
        """The network that is kept after training: (B, 3, S, S) -> features (B, D)."""
        raise NotImplementedError

    def detector(self) -> dict[str, Tensor]:
        """Return what was trained of a detector besides its body, in torchvision's names."""
        return {}

    def networks(self) -> list[torch.nn.Module]:
        """Return the parts that `compile` compiles: those with parameters."""
        return [part for part in self.children() if next(part.parameters(), None) is not None]

    def forward(self, views: Views, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of a batch, or of a part of it, and scalars to be logged.

        Everything random follows from the seed, `step` (the number of the training step, from 0)
        and `views.rows`.
        """
        raise NotImplementedError

    def update(self) -> None:
        """Do what follows the optimiser's step, with what the batch's `forward` calls kept."""

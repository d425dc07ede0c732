"""Self-taught saliency: labels for a BASNet from the disagreeing maps of its own photographs.

As in DeepUSPS [1]_, training goes in rounds. The first learns from what the teachers, methods per
pixel, agree on. What cannot be learnt from many photographs at once, such as one teacher's error on
one of them, is lost on the way [2]_; so in each further round the network's own maps of the same
photographs, averaged over the last epochs of the round before (the "historical moving average"),
vote with the teachers'. Unlike there, one network learns from all teachers, and nothing of it was
pretrained, so that its maps cannot do without them.

References
----------
.. [1] D. T. Nguyen et al. "DeepUSPS: Deep Robust Unsupervised Saliency Prediction With
   Self-Supervision". NeurIPS 2019.
.. [2] J. Zhang, T. Zhang, Y. Dai, M. Harandi, R. Hartley. "Deep Unsupervised Saliency Detection: A
   Multiple Noisy Labeling Perspective". CVPR 2018.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data.errors import UserError
from data.keys import Keys
from data.masks.read import MaskShards
from saliency.basnet.settings import Settings
from saliency.cli import Settings as MaskSettings
from saliency.cli import compute_masks
from saliency.methods import METHODS

HISTORY = 3
"""Epochs, at the end of a round, whose maps make the next round's labels."""
INERTIA = 0.7
"""Alpha of the moving average."""
SETTLED = 0.02
"""Training ends when a round changes its labels by less, as their mean absolute difference."""


def vote(maps: np.ndarray) -> np.ndarray:
    """Join maps, float (K, S, S) in [0, 1], to float32 (S, S), pixel by pixel.

    By the multi-layer cellular automaton of Qin et al. (`saliency.methods.fusion.joined`): a pixel
    that most maps find salient becomes so, and is left near 0.5 where they disagree.
    """
    from saliency.methods.fusion import joined  # compiles kernels

    layers = maps.reshape(len(maps), -1).T.astype(np.float64)
    return joined(layers).reshape(maps.shape[1:]).astype(np.float32)


def moving_average(maps: np.ndarray) -> np.ndarray:
    """Return M_K of successive maps, float32 (K, S, S): M_1 = y_1, and with alpha = `INERTIA`

    M_k = (1 - alpha) y_k + alpha M_{k-1}.
    """
    average = maps[0]
    for each in maps[1:]:
        average = (1 - INERTIA) * each + INERTIA * average
    return average


class Labels:
    """Soft labels of photographs, from several sets of masks; item i is float32 (S, S) in [0, 1].

    teachers, history : folders of mask shards. Each teacher has a vote, and so has the moving
        average of the history, if there is one.
    keys : of the photographs. size : S, in pixels.

    UserError: no shards there, or a photograph has no mask in them.
    """

    def __init__(
        self, teachers: list[Path], keys: Keys, size: int, history: Sequence[Path] = ()
    ) -> None:
        self.size, self.teachers = size, len(teachers)
        self.masks = [MaskShards(folder) for folder in (*teachers, *history)]
        self._rows = np.stack([masks.keys.rows(keys) for masks in self.masks])
        for masks, rows in zip(self.masks, self._rows, strict=True):
            sizes = np.array([row >= 0 and min(masks.mask_size(row)) for row in rows])
            lacking = np.flatnonzero(sizes == 0)
            if lacking.size:
                raise UserError(
                    f"{lacking.size} of {len(keys)} photographs have no mask in "
                    f"{str(masks.folder)!r}, the first is {keys[lacking[0]]!r}; mend or remove "
                    "them, or compute masks of these photographs."
                )

    def __len__(self) -> int:
        return self._rows.shape[1]

    def __getitem__(self, index: int) -> np.ndarray:
        maps = [
            cv2.resize(masks.read(row), (self.size, self.size), interpolation=cv2.INTER_AREA)
            for masks, row in zip(self.masks, self._rows[:, index].tolist(), strict=True)
        ]
        voters, history = np.split(np.stack(maps).astype(np.float32) / 255, [self.teachers])
        return vote(np.stack([*voters, moving_average(history)]) if len(history) else voters)

    def change(self, before: "Labels") -> float:
        """Return the mean absolute difference to the labels before, in [0, 1]."""
        pairs = ((self[i], before[i]) for i in range(len(self)))
        return float(np.mean([np.abs(now - then).mean() for now, then in pairs]))


class SelfTaught:
    """The labels of a run: `teachers/` and `epochs/` in its folder hold the masks they come from.

    images, keys : the photographs to train on, the first of those in the folder.
    arithmetic : `device` and `precision` of the network when it makes masks, as `saliency-compute`
        has them.
    jobs : processes for that.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        images: Path,
        keys: Keys,
        arithmetic: dict[str, str],
        jobs: int,
    ) -> None:
        self.folder, self.settings, self.arithmetic = folder, settings, arithmetic
        self.keys = keys
        self._common = {"images": images, "limit": len(keys), "jobs": max(1, jobs)}

    def prepare(self) -> None:
        """Compute the teachers' maps that are missing."""
        names = [name for name in self.settings.teacher_list if name in METHODS]
        out = self.folder / "teachers" / ("" if len(names) > 1 else "".join(names))
        if names:
            compute_masks(MaskSettings(**self._common, out=out, method=",".join(names)), {})

    def look(self, epoch: int, weights: Path) -> None:
        """Make the network's maps after so many epochs, if labels will be made of them.

        weights : the network's, as a file.
        """
        if epoch in self._history(-(-epoch // self.settings.round_epochs)):
            size = self.settings.resize
            out = self._epoch(epoch)
            settings = MaskSettings(
                **self._common, out=out, method="basnet", max_side=size, overwrite=True
            )
            compute_masks(settings, {"weights": weights, "input_size": size} | self.arithmetic)

    def labels(self, number: int) -> Labels:
        """Return what is learnt from in a round, counted from 0."""
        own, teachers = self.folder / "teachers", self.settings.teacher_list
        folders = [own / name if name in METHODS else Path(name) for name in teachers]
        history = [self._epoch(epoch) for epoch in self._history(number)] if number else ()
        return Labels(folders, self.keys, self.settings.resize, history)

    def change(self, number: int) -> float:
        """Return by how much the labels of a round, from 1, differ from those before."""
        return self.labels(number).change(self.labels(number - 1))

    def _history(self, number: int) -> range:
        """The epochs, counted from 1, whose maps make the labels of a round."""
        each = self.settings.round_epochs
        return range(number * each - min(HISTORY, each) + 1, number * each + 1)

    def _epoch(self, epoch: int) -> Path:
        return self.folder / "epochs" / f"{epoch:04d}"

"""What became of images and views that could not be shown as they were to be."""

from __future__ import annotations

from collections.abc import Callable

from data.metrics import Metrics

_WRITTEN = 10  # so many are named in metrics.jsonl
_NAMED = 3  # so many on the terminal

_KINDS = {  # name in metrics.jsonl: the lists of a batch, and what is said of them
    "replaced": (
        ("replaced_reasons", "backgrounds_skipped"),
        "unreadable images were replaced",
    ),
    "damaged": (
        ("damaged",),
        "images are damaged inside, and shown as far as they could be decoded",
    ),
}


class Remarks:
    """An epoch's, of this process; each image once, however often it was drawn."""

    def __init__(self) -> None:
        self._texts: dict[str, set[str]] = {name: set() for name in _KINDS}
        self._unmoved = 0

    def add(self, batch: dict) -> None:
        """Note what a batch of the loader says."""
        for name, (lists, _) in _KINDS.items():
            for entry in lists:
                self._texts[name].update(batch[entry])
        self._unmoved += int(batch["unmoved"].sum())

    def tell(
        self, gather: Callable[[list], list], log: Metrics, where: dict[str, int]
    ) -> list[str]:
        """Return sentences for the terminal, of all processes, and write a line of each kind.

        gather : joins the lists of all processes; each of them calls it.
        where : step and epoch.
        """
        sentences = []
        for name, (_, what) in _KINDS.items():
            texts = sorted(set(gather(sorted(self._texts[name]))))
            if texts:
                log.write(where | {name: len(texts), "reasons": texts[:_WRITTEN]})
                some = "; ".join(texts[:_NAMED]) + ("; ..." if len(texts) > _NAMED else "")
                sentences.append(f"{len(texts)} {what}: {some}")
        unmoved = sum(gather([self._unmoved]))
        if unmoved:
            log.write(where | {"unmoved": unmoved})
            sentences.append(
                f"{unmoved} views stay as they are: the object's box, theirs or their partner's, "
                "is empty, below 2 % or above 90 % of the image"
            )
        return sentences

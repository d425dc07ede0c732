"""The paper's tables as rows of settings, each with the paper's own figure, and one of ours.

Figures: DiLo (arXiv 2004.06638), ResNet-50, ImageNet, linear top-1 in %.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    name : as the paper calls it.
    paper : its figure there, %; None for rows that the paper lacks.
    settings : of `pretrain`, over the miniature's own.
    masks : which method's masks are pasted with; None: nothing is pasted.
    """

    name: str
    paper: float | None
    settings: dict[str, object] = field(default_factory=dict)
    masks: str | None = None

    @property
    def run(self) -> str:
        """The name of the run; rows of one name are one run."""
        words = [f"{name}-{value}" for name, value in sorted(self.settings.items())]
        return "_".join([self.masks or "baseline", *words])

    def all_settings(self) -> dict[str, object]:
        """The settings with the probability of pasting filled in."""
        default = {"paste_probability": 0.5 if self.masks else 0}
        return default | self.settings


@dataclass(frozen=True)
class Table:
    """One of the paper's tables."""

    title: str
    rows: tuple[Row, ...]


def _paste(name: str, paper: float, probability: float) -> Row:
    settings = {} if probability == 0.5 else {"paste_probability": probability}
    return Row(name, paper, settings, "rbd")


_BASELINE = Row("baseline", 56.5)
_RBD = Row("RBD", 59.3, masks="rbd")
_ONE_VIEW_ALWAYS = {"paste_views": "first", "paste_probability": 1.0}
_CENTRE = {"crop": "center", "flip": 0, "jitter": 0, "gray": 0}

TABLES = {
    "table1": Table(
        "Table 1: augmentations, added one by one",
        (
            Row("centre crop", 5.8, _CENTRE),
            Row("+ flip", 7.3, {k: v for k, v in _CENTRE.items() if k != "flip"}),
            Row("+ spatial crop", 24.7, {"crop": "spatial", "jitter": 0, "gray": 0}),
            Row("+ scale crop", 36.8, {"jitter": 0, "gray": 0}),
            Row("+ colour jitter", 51.7, {"gray": 0}),
            Row("+ random gray", 56.5),
            Row("+ copy-paste (RBD)", 59.3, masks="rbd"),
        ),
    ),
    "table2a": Table(
        "Table 2(a): saliency methods",
        (
            _BASELINE,
            Row("GS", 57.8, masks="gs"),
            Row("MC", 58.1, masks="mc"),
            _RBD,
            Row("BASNet", 62.9, masks="basnet"),
            Row("true masks", None, masks="truth"),
        ),
    ),
    "table2b": Table(
        "Table 2(b): how often the foreground is pasted",
        (
            Row("0%", 56.5),
            _paste("20%", 59.3, 0.2),
            _paste("50%", 59.3, 0.5),
            _paste("80%", 57.5, 0.8),
            _paste("100%", 44.5, 1.0),
        ),
    ),
    "table2c": Table(
        "Table 2(c): backgrounds",
        (
            Row("texture", 57.1, {"background": "texture"}, "rbd"),
            Row("ImageNet (crops without saliency)", 59.2, {"background": "imagenet"}, "rbd"),
            Row("grayscale", 59.3, masks="rbd"),
        ),
    ),
    "table2d": Table(
        "Table 2(d): blending",
        (
            Row("none", 59.3, masks="rbd"),
            Row("Gaussian", 58.9, {"blend": "gaussian"}, "rbd"),
            Row("mix", 59.3, {"blend": "mix"}, "rbd"),
        ),
    ),
    "needs": Table(
        "What accuracy needs: one view pasted, a lower temperature, twice as long",
        (
            _BASELINE,
            _RBD,
            Row("RBD, 50%, one view", None, {"paste_views": "first"}, "rbd"),
            Row("RBD, 100%, one view", None, _ONE_VIEW_ALWAYS, "rbd"),
            Row("baseline, T .1", None, {"temperature": 0.1}),
            Row("RBD, T .1", None, {"temperature": 0.1}, "rbd"),
            Row("baseline, 60 epochs", None, {"epochs": 60}),
            Row("RBD, 60 epochs", None, {"epochs": 60}, "rbd"),
        ),
    ),
}

REDUCED = {  # what a CPU can do in an hour or two
    "table2a": ("baseline", "GS", "RBD", "true masks"),
    "table2b": ("0%", "20%", "50%", "100%"),
    "needs": tuple(row.name for row in TABLES["needs"].rows),
}


def choose(
    only: tuple[str, ...], reduced: bool, masks: set[str], textures: bool
) -> tuple[dict[str, Table], list[str]]:
    """Return the tables to run and, in words, what is left out.

    Parameters
    ----------
    only : names of tables; empty: all.
    reduced : keep the rows of `REDUCED` alone.
    masks : the methods of which masks can be had.
    textures : whether there is a folder of textures.
    """
    chosen, left_out = {}, []
    for name, table in TABLES.items():
        if only and name not in only:
            left_out.append(f"{table.title}: not asked for")
            continue
        if reduced and name not in REDUCED:
            left_out.append(f"{table.title}: left out of the reduced version")
            continue
        rows = []
        for row in table.rows:
            why = None
            if reduced and row.name not in REDUCED[name]:
                why = "left out of the reduced version"
            elif row.masks is not None and row.masks not in masks:
                why = f"no masks by {row.masks} were given"
            elif row.settings.get("background") == "texture" and not textures:
                why = "no --textures were given"
            if why is None:
                rows.append(row)
            else:
                left_out.append(f"{table.title}, {row.name}: {why}")
        if rows:
            chosen[name] = Table(table.title, tuple(rows))
    return chosen, left_out

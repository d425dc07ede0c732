"""The report: each table beside the paper's own, as JSON, Markdown, PNG and one page."""

from __future__ import annotations

import html
import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from benchmarks.miniature.tables import Table
from evaluate.intervals import over_seeds

FIGURES = {  # how a figure is called in JSON, and in tables
    "linear": "linear top-1",
    "knn": "kNN top-1",
    "background": "explained by the background",
    "abx": "ABX",
    "gap": "background gap",
}
_EXPLAINED = {
    "linear": "logistic regression on frozen penultimate features (probe linear --fast)",
    "knn": "20 neighbours, weights exp(cosine / .07) (probe knn)",
    "background": "the share of the features' variance that the background explains, over "
    "composites of every object with every background (probe foreground); less is better",
    "abx": "how often the same object on another background is nearer than another object on the "
    "same (probe foreground)",
    "gap": "accuracy with another background of the same class, minus that of a random class, ten "
    "donors an image (probe robustness); less is better, at equal accuracy",
}
RULES = (  # written before any figure: the run that is to be lower, the one that is to be higher
    ("linear", "baseline", "rbd", "copy-paste with RBD's masks is better than none"),
    ("linear", "rbd", "truth", "true masks are better than RBD's"),
    ("linear", "rbd_paste_probability-1.0", "rbd", "always pasting is worse than half of the time"),
    ("background", "rbd", "baseline", "with copy-paste the background explains less"),
    ("background", "truth", "rbd", "with true masks it explains less than with RBD's"),
)
_DIFFERENCES = "Differences from the baseline, paired by seed"
RULE = (
    "Success was defined before any figure: a statement holds if the difference, paired by seed, "
    "is positive by more than two standard errors over the seeds; contradicted, if negative by "
    "more than two; else it is undecided."
)


@dataclass
class Report:
    """What was measured.

    Attributes
    ----------
    images, settings, seeds, machine, command : said on the page.
    tables : those that were run.
    figures : figures of each run, by run and seed, shares of 1.
    references : the untrained and the supervised network's, by name and seed.
    left_out : in words.
    """

    images: Path
    settings: dict[str, object]
    seeds: list[int]
    machine: str
    command: str
    tables: dict[str, Table]
    left_out: list[str]
    figures: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    references: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    seconds: float = 0.0

    def write(self, out: Path) -> str:
        """Write results.json, results.md, a PNG a table and index.html; return the tables."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps(self._json(), indent=2) + "\n", "utf-8")
        text = "\n\n".join(
            [RULE, "\n".join(f"* {sentence}" for sentence in self.verdicts())]
            + [_markdown(title, cells) for title, cells in self._sections()]
        )
        (out / "results.md").write_text(text + "\n", "utf-8")
        for name, table in self.tables.items():
            self._plot(table, out / f"{name}.png")
        (out / "index.html").write_text(self._page(), "utf-8")
        return text

    def _sections(self) -> list[tuple[str, list[dict[str, str]]]]:
        """Titles and tables: what can be had, each of the tables, differences from the baseline."""
        tables = [(table.title, self._table(table)) for table in self.tables.values()]
        sections = [("What can be had", self._reference_table()), *tables]
        differences = self._differences()
        return [*sections, (_DIFFERENCES, differences)] if differences else sections

    def _json(self) -> dict:
        return {
            "images": str(self.images),
            "command": self.command,
            "machine": self.machine,
            "seconds": round(self.seconds),
            "settings": self.settings,
            "seeds": self.seeds,
            "references": self.references,
            "runs": self.figures,
            "tables": {
                name: [
                    {"row": row.name, "paper": row.paper, "run": row.run}
                    | {key: list(self._spread(row.run, key)) for key in self.titles}
                    for row in table.rows
                ]
                for name, table in self.tables.items()
            },
            "rule": RULE,
            "verdicts": self.verdicts(),
            "left_out": self.left_out,
        }

    def verdicts(self) -> list[str]:
        """Each rule whose two runs are there, with its difference and what follows."""
        sentences = []
        for key, lower, higher, claim in RULES:
            pair = self.figures.get(lower), self.figures.get(higher)
            seeds = sorted(pair[0].keys() & pair[1].keys()) if None not in pair else []
            if not seeds:
                continue
            mean, error = _spread([pair[1][s][key] - pair[0][s][key] for s in seeds])
            shown = f"{FIGURES[key]} {_cell(mean, error)}, {len(seeds)} seeds"
            verdict = "undecided"
            if error is not None and abs(mean) > 2 * error:
                verdict = "holds" if mean > 0 else "contradicted"
            sentences.append(f"{claim}: {verdict} ({shown})")
        return sentences

    @property
    def titles(self) -> dict[str, str]:
        """The figures' names: those of other test sets after `FIGURES`."""
        first = next(iter(next(iter(self.figures.values())).values()))
        others = sorted(key for key in first if key.partition(" ")[2])
        return FIGURES | {key: f"{key} backgrounds" for key in others}

    def _spread(self, run: str, figure: str) -> tuple[float, float | None]:
        """Return mean and standard error over the seeds; None for a single seed."""
        return _spread([found[figure] for found in self.figures[run].values()])

    def _table(self, table: Table) -> list[dict[str, str]]:
        rows = []
        for row in table.rows:
            cells = {"": row.name, "paper": "" if row.paper is None else f"{row.paper:.1f}"}
            for key, title in self.titles.items():
                cells[title] = _cell(*self._spread(row.run, key))
            rows.append(cells)
        return rows

    def _reference_table(self) -> list[dict[str, str]]:
        rows = []
        for name, by_seed in self.references.items():
            cells = {"": name}
            for key, title in self.titles.items():
                cells[title] = _cell(*_spread([one[key] for one in by_seed.values()]))
            rows.append(cells)
        return rows

    def _differences(self) -> list[dict[str, str]]:
        rows = []
        for run, by_seed in self.figures.items():
            seeds = sorted(by_seed.keys() & self.figures.get("baseline", {}).keys())
            if run == "baseline" or not seeds:
                continue
            cells = {"": run}
            for key, title in self.titles.items():
                paired = [by_seed[s][key] - self.figures["baseline"][s][key] for s in seeds]
                cells[title] = _cell(*_spread(paired), sign="+")
            rows.append(cells)
        return rows

    def _plot(self, table: Table, path: Path) -> None:
        """Draw the paper's figures, and ours beside them, over the rows."""
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        names = [row.name for row in table.rows]
        places = range(len(names))
        panels = figure.subplots(1, 1 + len(FIGURES))
        panels[0].bar(places, [row.paper or 0 for row in table.rows], color="lightgray")
        panels[0].set_title("paper, linear", fontsize=9)
        for axes, (key, title) in zip(panels[1:], FIGURES.items(), strict=True):
            found = [self._spread(row.run, key) for row in table.rows]
            values = [100 * mean for mean, _ in found]
            errors = [100 * (spread or 0) for _, spread in found]
            axes.errorbar(places, values, errors, fmt="o", capsize=3)
            for style, (name, by_seed) in zip(":-", self.references.items(), strict=False):
                mean = 100 * _spread([one[key] for one in by_seed.values()])[0]
                axes.axhline(mean, color="gray", linestyle=style, linewidth=1, label=name)
            axes.set_title(textwrap.fill(title, 16), fontsize=9)
        for axes in panels:
            axes.set_xticks(places, names, rotation=60, ha="right", fontsize=8)
            axes.set_xlim(-0.6, len(names) - 0.4)
            axes.tick_params(axis="y", labelsize=8)
            axes.grid(axis="y", alpha=0.3)
        panels[0].set_ylabel("%", fontsize=8)
        lines = panels[-1].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower left", ncols=len(lines[0]), fontsize=8)
        figure.savefig(path, dpi=120, format="png")

    def _page(self) -> str:
        plots = {table.title: name for name, table in self.tables.items()}
        sections = "".join(
            f"<h2>{html.escape(title)}</h2>{_html(cells)}"
            + (f'<img src="{plots[title]}.png" alt="{title}">' if title in plots else "")
            for title, cells in self._sections()
        )
        missing = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.left_out)
        shown = {key: value for key, value in self.settings.items() if key != "paste_probability"}
        settings = ", ".join(f"{key} = {json.dumps(value)}" for key, value in shown.items())
        several = len(self.seeds) > 1
        seeds = f"{len(self.seeds)} seeds, ± their standard error" if several else "one seed"
        explained = "".join(
            f"<li><b>{FIGURES[key]}</b>: {html.escape(text)}</li>"
            for key, text in _EXPLAINED.items()
        )
        return _PAGE.format(
            images=html.escape(self.images.name),
            settings=html.escape(settings),
            seeds=seeds,
            machine=html.escape(self.machine),
            hours=f"{self.seconds / 3600:.1f}",
            command=html.escape(self.command),
            explained=explained,
            rule=RULE,
            verdicts="".join(f"<li>{html.escape(text)}</li>" for text in self.verdicts()),
            sections=sections,
            left_out=f"<h2>Left out</h2><ul>{missing}</ul>" if missing else "",
        )


def _spread(values: list[float]) -> tuple[float, float | None]:
    return over_seeds(values) if len(values) > 1 else (values[0], None)


def _cell(mean: float, spread: float | None, sign: str = "") -> str:
    return f"{100 * mean:{sign}.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _markdown(title: str, cells: list[dict[str, str]]) -> str:
    return f"### {title}\n\n" + tabulate(
        cells, headers="keys", tablefmt="github", disable_numparse=True
    )


def _html(cells: list[dict[str, str]]) -> str:
    return tabulate(cells, headers="keys", tablefmt="html", disable_numparse=True)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>The paper's ablations in miniature</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #222; background: #fff; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .25rem 1.5rem .25rem 0; text-align: right;
  font-variant-numeric: tabular-nums; }}
td:first-child, th:first-child {{ text-align: left; }}
img {{ max-width: 100%; height: auto; }}
code {{ background: #f4f4f4; padding: .1rem .3rem; overflow-wrap: anywhere; }}
small {{ color: #555; }}
</style></head><body>
<h1>The paper's ablations in miniature</h1>
<p>Every row is a network pretrained without labels on {images} by <code>pretrain</code> and judged
by <code>probe</code>. The column "paper" is <i>Distilling Localization</i> (arXiv 2004.06638):
ResNet-50, ImageNet, linear top-1. Compare the order of the rows and the size of their differences,
not the figures.</p>
<p>{rule}</p>
<ul>{verdicts}</ul>
<ul>{explained}</ul>
{sections}
{left_out}
<p><small>{settings}; {seeds}; {machine}; {hours} hours.<br>
<code>{command}</code></small></p>
</body></html>
"""

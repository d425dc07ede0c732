"""A Markdown table that is printed row by row, so that a run that is cut off keeps what it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

from benchmarks.training.failures import Failures

T = TypeVar("T")
_NAME, _FIGURE = 50, 10  # characters; a longer text moves the borders of its own row alone


class Table:
    """Prints its heads at once, and a row as soon as there is one.

    The first column has names, a column without a head remarks, all others figures.
    """

    def __init__(self, heads: Sequence[str], failures: Failures) -> None:
        self._failures = failures
        self._formats = [f"<{_NAME}"]
        self._formats += [f">{max(_FIGURE, len(head))}" if head else "" for head in heads[1:]]
        print()
        self.row(*heads)
        rules = (":--" if "<" in form or not form else "--:" for form in self._formats)
        print("|" + "|".join(rules) + "|", flush=True)

    def row(self, *cells: str) -> None:
        """Print a row; cells that are missing at the end are empty."""
        padded = zip_longest(cells, self._formats, fillvalue="")
        print("| " + " | ".join(format(cell, form) for cell, form in padded) + " |", flush=True)

    def measure(
        self, name: str, measure: Callable[[], T], cells: Callable[[T], Sequence[str]]
    ) -> T | None:
        """Measure a part and print its row; if it fails, a row with the reason, and return None."""
        found = self._failures.attempt(name, measure, lambda why: self.row(name, "failed", why))
        if found is not None:
            self.row(name, *cells(found))
        return found

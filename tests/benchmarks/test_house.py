"""The rules of the house, on the project itself, and what `benchmarks.house` counts."""

import textwrap

import pytest

from benchmarks import house


@pytest.fixture(scope="module")
def graph():
    return house.imports(house.sources())


def test_imports_run_one_way(graph):
    assert house.against_the_rules(graph) == []


def test_no_modules_import_each_other(graph):
    assert house.circles(graph) == []


def test_an_import_against_the_rules_is_told():
    graph = {
        "data.files": {"pretrain.cli"},
        "pretrain.cli": {"data.files"},
        "pretrain.__main__": {"dilo"},
        "evaluate.models": {"pretrain.parts.backbones", "pretrain.trainer"},
    }
    assert house.against_the_rules(graph) == [
        "data.files imports pretrain.cli",
        "evaluate.models imports pretrain.trainer",
    ]
    assert house.circles({**graph, "pretrain.parts.backbones": set(), "pretrain.trainer": set(),
                          "dilo": set()}) == [["data.files", "pretrain.cli"]]  # fmt: skip


def test_imports_within_functions_count_and_those_for_types_do_not(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "dilo.py").write_text("")
    (tmp_path / "data" / "__init__.py").write_text("")
    (tmp_path / "data" / "a.py").write_text(
        textwrap.dedent(
            """
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from data import c
            def late():
                from data import b
            """
        )
    )
    (tmp_path / "data" / "b.py").write_text("import data.c")
    (tmp_path / "data" / "c.py").write_text("")
    graph = house.imports(house.sources(tmp_path))
    assert graph["data.a"] == {"data.b"}
    assert graph["data.b"] == {"data.c"}


TEXT = '''"""A module."""

# a comment
def f(x):
    """A docstring
    of two lines."""
    try:
        return (x +
                1)
    except ValueError:
        raise TypeError(
            "no number"
        ) from None
'''


def test_lines_are_counted():
    assert house.code_lines(TEXT) == 8
    assert house.failure_lines(TEXT) == 4
    assert house.long_functions(TEXT, 6) == {"f": 7}
    assert house.long_functions(TEXT, 7) == {}

"""Options and settings from a record."""

from pathlib import Path
from typing import Annotated, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from data.errors import UserError
from data.options import (
    Command,
    Record,
    build,
    list_settings,
    one_of,
    option_name,
    options,
    parse_assignment,
    read_toml,
    setting,
    to_toml,
)

KINDS = {"square": 1, "round": 2}


class Inner(Record):
    rate: Annotated[float, Field(gt=0)] = setting(0.5, "a rate")


class Settings(Record):
    images: Path = setting(..., "folder of images", argument=True)
    size: Annotated[int, Field(ge=1)] = setting(224, "side of a view", heading="Views")
    kind: Annotated[str, one_of(KINDS)] = setting("square", "kind of view", heading="Views")
    other: Annotated[str, one_of(KINDS)] | None = setting(None, "another kind")
    mode: Literal["fast", "slow"] = setting("fast", "how")
    count: Annotated[int, Field(ge=1)] | Literal["all"] | None = setting(None, "how many")
    scale: tuple[float, float] = setting((0.2, 1.0), "a range")
    ks: tuple[int, ...] = setting((200,), "neighbours", names=("--k",))
    masks: str | None = setting(None, "folder of masks")
    dry: bool = setting(False, "do nothing")
    inner: Inner = Inner()


def run(*arguments, record=Settings, **keywords):
    only = [n for n in record.model_fields if n not in ("inner", "scale")]

    @click.command(cls=Command)
    @options(record, only=only, **keywords)
    def main(settings):
        click.echo(repr(settings))

    return CliRunner().invoke(main, arguments)


def test_a_command_gets_the_record():
    result = run("photos", "--size", "64", "--k", "5", "--k", "7", "--dry", "--count", "all")
    assert result.exit_code == 0, result.output
    expected = Settings(images="photos", size=64, ks=(5, 7), dry=True, count="all")
    assert result.output.strip() == repr(expected)


def test_layered_commands_get_what_was_given():
    result = run("photos", "--size", "64", "--no-dry", layered=True)
    assert result.output.strip() == repr({"images": Path("photos"), "size": 64, "dry": False})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["photos", "--size", "0"], "--size is 0; it should be greater than or equal to 1."),
        (["photos", "--kind", "flat"], "--kind is 'flat'; choose one of square, round."),
        (["photos", "--other", "flat"], "--other is 'flat'; choose one of square, round."),
        (["photos", "--mode", "mid"], "--mode is 'mid'; it should be 'fast' or 'slow'."),
        (["photos", "--count", "-1"], "a number of at least 1, or 'all'."),
        ([], "Missing argument 'IMAGES'"),
        (["photos", "--size", "big"], "'big' is not a valid integer"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence):
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_help_lists_headings_choices_and_defaults():
    text = run("--help").output
    assert "Views:\n" in text and "[square|round]" in text and "[fast|slow]" in text
    assert "Side of a view.  [default: 224]" in text


def test_a_registry_is_read_when_it_is_asked(monkeypatch):
    monkeypatch.setitem(KINDS, "oval", 3)
    assert "[square|round|oval]" in run("--help").output
    assert run("photos", "--kind", "oval").exit_code == 0


def test_layers_and_tables():
    layers = {"images": "a", "size": 3, "inner": {"rate": 2}}, {"size": 4}, {"inner": {}}
    settings = build(Settings, *layers)
    assert (settings.size, settings.inner.rate) == (4, 2)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ({"sizes": 3}, "there is no setting 'sizes'; did you mean 'size'?"),
        ({"size": 0}, "the setting size is 0; it should be greater than or equal to 1."),
        ({"scale": 3}, "the setting scale is 3; it should be a list of 2, as [0.2, 1.0]."),
        ({"inner": {"rate": 0}}, "the setting inner.rate is 0; it should be greater than 0."),
        ({"size": float("nan")}, "the setting size is nan"),
    ],
)
def test_sentences_of_settings(layer, sentence):
    with pytest.raises(UserError) as error:
        build(Settings, {"images": "a"}, layer)
    assert error.value.message.startswith(sentence)


def test_toml_there_and_back(tmp_path):
    settings = Settings(images='a "b"', inner=Inner(rate=0.25), scale=(0.1, 0.2))
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf" + to_toml(settings).encode())
    assert build(Settings, read_toml(tmp_path / "a.toml")) == settings
    (tmp_path / "b.toml").write_text("a = = 3")
    with pytest.raises(UserError, match="is not TOML"):
        read_toml(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size=64", {"size": 64}),
        ("image-size = 64", {"image_size": 64}),
        ("scale=[.1, 1]", {"scale": "[.1, 1]"}),
        ("scale=[0.1, 1]", {"scale": [0.1, 1]}),
        ("masks=3", {"masks": "3"}),
        ("inner.rate=0.5", {"inner": {"rate": 0.5}}),
    ],
)
def test_assignments(text, expected):
    assert parse_assignment(text, Settings) == expected


@pytest.mark.parametrize("text", ["size", "=3", "a..b=3"])
def test_an_assignment_without_a_name_or_value(text):
    with pytest.raises(UserError, match="not of the form"):
        parse_assignment(text, Settings)


def test_the_list_of_settings():
    assert "inner.rate = 0.5\n    a rate" in list_settings(Inner, table="inner.")
    assert option_name("image_size") == "--image-size"

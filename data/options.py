"""Settings as records: a name, its type, default and help are written once.

A record is a pydantic model whose fields are made by `setting`. From it come a command's options
(`options`), the checks and their sentences (`build`), TOML files (`read_toml`, `to_toml`),
`--set name=value` (`parse_assignment`) and the list that `--settings` prints (`list_settings`).

    class Settings(Record):
        size: Annotated[int, Field(ge=1)] = setting(224, "side of a view in pixels")
        method: Annotated[str, one_of(METHODS)] = setting("rbd", "saliency method")

    @click.command()
    @click.argument("images")
    @options(Settings)
    def main(images: str, settings: Settings) -> None: ...
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from tqdm import tqdm

from data.errors import ToldCommand, UserError

_LISTS = ("tuple_type", "list_type", "missing", "too_long", "too_short")  # errors of a list


class Record(BaseModel):
    """A frozen set of checked settings; unknown names, `nan` and `inf` are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


R = TypeVar("R", bound=Record)


def _some_processes(jobs: int) -> int:
    if jobs < 1 and jobs != -1:
        raise ValueError("give a number of processes, or -1 for one on each core")
    return jobs


Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Jobs = Annotated[int, AfterValidator(_some_processes)]


def setting(
    default: Any,
    help: str,
    *,
    names: tuple[str, ...] = (),
    argument: bool = False,
    heading: str = "Options",
    metavar: str | None = None,
    shown_default: str | None = None,
) -> Any:
    """Return a field of a `Record`.

    default : its value where none is given; `...` where one must be.
    help : one line for `--help` and `--settings`.
    names : of the option, such as ("-o", "--out"); by default the field's name with dashes.
    argument : a positional argument, not an option; of a tuple, any number of them.
    heading : under which `--help` lists the option (`Command`).
    metavar : what `--help` shows for the value.
    shown_default : the default in words, where it is decided later.
    """
    extra = {"names": names, "argument": argument, "heading": heading, "metavar": metavar}
    extra["shown_default"] = shown_default
    return Field(default, description=help, json_schema_extra=extra)


class Choice(click.ParamType):
    """A name of a registry, as the registry is when `--help` is asked for or a value is checked."""

    name = "choice"

    def __init__(self, names: Collection[str]) -> None:
        self.names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.names)}]"

    def check(self, name: str) -> str:
        if name not in self.names:
            raise ValueError(f"choose one of {', '.join(self.names)}")
        return name


def one_of(names: Collection[str]) -> AfterValidator:
    """Return what `Annotated[str, one_of(REGISTRY)]` needs: the name must be in the registry."""
    return AfterValidator(Choice(names).check)


class Option(click.Option):
    """An option that `Command` lists under a heading."""

    def __init__(self, *names: Any, heading: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.heading = heading


class Command(ToldCommand):
    """A command that lists its options under their headings, in the order of the first of each."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and record[1]:  # arguments are explained in the text above
                groups.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def options(
    record: type[Record],
    *,
    into: str = "settings",
    only: Collection[str] | None = None,
    layered: bool = False,
) -> Callable[[Callable], Callable]:
    """Return a decorator that adds a record's fields to a click command.

    record : whose fields become options and arguments.
    into : the command's parameter that gets the record, checked.
    only : these fields; by default all.
    layered : the command gets the dict of what was given, unchecked, to put it upon other layers.

    UserError: From the decorated command: a value that the record refuses.
    """
    chosen = [name for name in record.model_fields if only is None or name in only]

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def wrapped(*args: Any, **values: Any) -> Any:
            given = {name: values.pop(name) for name in chosen}
            given = {name: value for name, value in given.items() if value not in (None, ())}
            if not layered:
                return command(*args, **values, **{into: build(record, given, label=option_name)})
            return command(*args, **values, **{into: given})

        for name in reversed(chosen):
            wrapped = _parameter(name, record.model_fields[name], layered)(wrapped)
        return wrapped

    return decorate


def option_name(name: str) -> str:
    """Return a field's name as an option: `--image-size` of `image_size`."""
    return "--" + name.replace("_", "-")


def _parameter(name: str, field: FieldInfo, layered: bool) -> Callable[[Callable], Callable]:
    """Return the click decorator of one field."""
    extra, inner, many = field.json_schema_extra, _plain_type(field), _tuple_of(field) is not None
    if extra["argument"]:
        return click.argument(
            name,
            type=_click_type(inner, field),
            nargs=-1 if many else 1,
            required=field.is_required(),
            metavar=extra["metavar"],
        )
    names = list(extra["names"] or (option_name(name),))
    shown, default = extra["shown_default"], field.get_default()
    if shown is None and not field.is_required() and default not in (None, (), ""):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    keywords: dict[str, Any] = {"default": None, "metavar": extra["metavar"]}
    if inner is bool:
        longest = max(names, key=len)
        if layered or default is True:
            names[names.index(longest)] = f"{longest}/--no-{longest[2:]}"
        keywords["is_flag"], shown = True, extra["shown_default"]
    else:
        keywords |= {"type": _click_type(inner, field), "multiple": many}
    text = field.description[0].upper() + field.description[1:]
    text = text if text.endswith((".", "]")) else text + "."
    return click.option(
        *names,
        name,
        cls=Option,
        heading=extra["heading"],
        help=text + (f"  [default: {shown}]" if shown is not None else ""),
        required=field.is_required(),
        **keywords,
    )


def _kinds(field: FieldInfo) -> list[Any]:
    """Return the types that a field may have, as annotated, without None."""
    kind = field.annotation
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return [kind for kind in kinds if kind is not type(None)]


def _bare(kind: Any) -> Any:
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _alternatives(field: FieldInfo) -> list[Any]:
    """Return the types that a field may have, without None and without their checks."""
    return [_bare(kind) for kind in _kinds(field)]


def _tuple_of(field: FieldInfo) -> Any:
    """Return the tuple that a field takes, as annotated; None for a single value."""
    return next((kind for kind in _alternatives(field) if get_origin(kind) is tuple), None)


def _plain_type(field: FieldInfo) -> Any:
    """Return the type of a field's value, or of a tuple's entries."""
    kind = _alternatives(field)[0]
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return _bare(kind)


def _click_type(kind: Any, field: FieldInfo) -> click.ParamType:
    inner = (check for kind in _kinds(field) for check in getattr(kind, "__metadata__", ()))
    for check in (*field.metadata, *inner):
        choice = getattr(getattr(check, "func", None), "__self__", None)
        if isinstance(choice, Choice):
            return choice
    if len(_alternatives(field)) > 1:  # such as a number or "all"
        return click.STRING
    if get_origin(kind) is Literal:
        return Choice(get_args(kind)) if isinstance(get_args(kind)[0], str) else click.STRING
    return {int: click.INT, float: click.FLOAT, Path: click.Path(path_type=Path)}.get(
        kind, click.STRING
    )


# ---- checking ------------------------------------------------------------------------------------


def build(
    record: type[R],
    *layers: Mapping[str, Any],
    label: Callable[[str], str] = "the setting {}".format,
) -> R:
    """Merge layers of values, later ones winning (tables entry by entry), and check the whole.

    label : turns a field's name into what a sentence calls it; see `option_name`.

    UserError: An unknown name (with the nearest known one), a wrong type or value; one sentence.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            table = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
            merged[name] = {**merged[name], **value} if table else value
    try:
        return record(**merged)
    except ValidationError as error:
        raise UserError(_sentence(error, record, label)) from None


def _sentence(error: ValidationError, record: type[Record], label: Callable[[str], str]) -> str:
    """Return the first complaint as one sentence that names setting, value and remedy."""
    first = error.errors()[0]
    text = first["msg"].removeprefix("Value error, ").rstrip(".")
    if not first["loc"]:
        return f"{text}."
    path = [part for part in first["loc"] if isinstance(part, str) and part.isidentifier()]
    name, value = ".".join(path), first["input"]
    if first["type"] == "extra_forbidden":
        names = list(record.model_fields)
        remedy = nearest(path[-1], names) or f"known are {', '.join(names[:6])}, ..."
        if isinstance(value, Mapping):
            remedy = f"there is no table [{path[-1]}] of settings."
        return f"there is no setting {name!r}; {remedy}"
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"{label(name)} is missing; give it."
    field = record.model_fields.get(path[0])
    if field is not None and len(path) == 1:
        if first["type"] in _LISTS:
            entries, default = get_args(_tuple_of(field)), field.get_default()
            text = "it should be a list" + (f" of {len(entries)}" if ... not in entries else "")
            text += f", as {list(default)}" if default else ""
        elif len(_alternatives(field)) > 1:
            text = _either(field)
    text = text[0].lower() + text[1:]
    for noun in ("input ", "value "):
        text = text.replace(noun, "it ", 1) if text.startswith(noun) else text
    value = str(value) if isinstance(value, Path) else value
    return f"{label(name)} is {value!r}; {text}."


def _either(field: FieldInfo) -> str:
    """Return what a field asks for that takes a number or a word."""
    words = [repr(w) for k in _alternatives(field) if get_origin(k) is Literal for w in get_args(k)]
    return f"it should be a number of at least 1, or {' or '.join(words)}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a question after the most similar of some names; "" where none is."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


# ---- files and text ------------------------------------------------------------------------------


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return a TOML file's content, not yet checked; a byte order mark is skipped.

    UserError: It is no TOML in UTF-8.
    OSError: It cannot be read.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the configuration {str(path)!r} is not TOML: {error}.") from None


def to_toml(record: BaseModel | Mapping[str, Any]) -> str:
    """Return a record as TOML, records within it as tables; what is None has no line."""
    if isinstance(record, BaseModel):
        record = record.model_dump(mode="json", exclude_none=True)
    values = dict(record)
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    # JSON's strings, numbers, booleans and lists of them are TOML's
    lines = [_toml_line(n, value) for n, value in values.items() if n not in tables]
    for name, table in tables.items():
        lines += [f"\n[{name}]\n", *(_toml_line(n, value) for n, value in table.items())]
    return "".join(lines)


def _toml_line(name: str, value: Any) -> str:
    return f"{name} = {json.dumps(value, ensure_ascii=False)}\n"


def parse_assignment(text: str, record: type[Record]) -> dict[str, Any]:
    """Return {name: value} of `name=value`, nested for `table.name=value`.

    The value is TOML, or else a bare string; a list may lack its brackets. What takes text alone,
    such as a folder, gets it: `masks=3` is a folder named 3.
    """
    name, equals, value = text.partition("=")
    path, bare = name.strip().replace("-", "_").split("."), value.strip()
    if not equals or not all(path):
        raise UserError(f"--set {text!r} is not of the form name=value, such as image_size=64.")
    field = record.model_fields.get(path[0]) if len(path) == 1 else None
    listed = field is not None and _tuple_of(field) is not None and not bare.startswith("[")
    try:
        parsed = tomllib.loads(f"value = [{bare}]" if listed else f"value = {bare}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        parsed = bare
    if field is not None and field.annotation in (str, str | None) and not isinstance(parsed, str):
        parsed = bare
    for part in reversed(path):
        parsed = {part: parsed}
    return parsed


def list_settings(record: type[Record], defaults: BaseModel | None = None, table: str = "") -> str:
    """Return every setting with its default and meaning, two lines each.

    defaults : a record whose values are shown, where they depend on one another.
    table : prefix of the names, such as "method.".
    """
    lines = []
    for name, field in record.model_fields.items():
        default = field.get_default() if defaults is None else getattr(defaults, name)
        if isinstance(default, BaseModel):  # a table, listed by itself
            continue
        shown = "" if default is None or field.is_required() else default
        lines.append(f"{table}{name} = {shown}\n    {field.description}")
    return "\n".join(lines)


# ---- options that several commands share ---------------------------------------------------------

FOLDER = click.Path(path_type=Path)
images_option = click.option("--images", type=FOLDER, help="The folder of images the masks are of.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that are there.")


def progress_bar(what: str) -> Callable[[Iterable, int], Iterable]:
    """Return a progress function; its bar shows only on a terminal."""

    def progress(steps: Iterable, total: int) -> Iterable:
        return tqdm(steps, what, total, unit="", disable=None, leave=False)

    return progress

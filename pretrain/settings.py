"""The settings of a training run: names, types, defaults, and where they come from.

The defaults are the paper's ablation recipe (DiLo, arXiv 2004.06638, section 6.1): InstDisc,
ResNet-50, K = 4096, copy-paste with probability .5 on grayscale backgrounds. They are overridden
by a TOML file, that by the command's options, and those by `--set name=value`.

A method's own settings are the `[method]` table, `name` being the method. Wherever settings are
given they may also stand flat beside the others: `temperature = 0.2` is `method.temperature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SerializeAsAny, model_validator

from data.backgrounds import background_of
from data.errors import UserError
from data.keys import is_utf8
from data.options import (
    Count,
    NotNegative,
    Record,
    build,
    list_settings,
    nearest,
    one_of,
    read_toml,
    setting,
)
from pretrain.contract import MethodSettings
from pretrain.methods import METHODS, load_method
from pretrain.views.recipes import RECIPES, PasteSettings, Strength, Switches, ViewRecipe

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1e6)]

# settings that may change on resume: they alter speed and reports, never a loss (but for rounding)
FREE_ON_RESUME = frozenset(
    (
        "images", "masks", "background_pool", "workers", "device", "compile", "log_every",
        "checkpoint_every_steps", "checkpoint_every_minutes", "keep_checkpoints", "knn_every",
        "knn_images", "knn_limit", "knn_k", "knn_temperature",
    )
)  # fmt: skip
ROW_NOTES = frozenset({"about", "expect", "cost", "command"})
"""Keys of a configuration's row that are for its reader; the others are settings."""
_RECIPE_NAMES = ", ".join(RECIPES)


class Settings(Switches, PasteSettings):
    """Every setting of a run, checked and complete; made by `build_settings`."""

    # data
    images: str = setting("", "folder of images")
    masks: str | None = setting(
        None, "folder of their mask shards; not needed without pasting", heading="Copy-paste",
        metavar="FOLDER",
    )  # fmt: skip
    allow_missing_masks: bool = setting(
        False, "use images without a mask, unpasted", heading="Copy-paste"
    )
    # method
    method: SerializeAsAny[MethodSettings] = setting(..., "method and its own settings, a table")
    arch: Literal[
        "alexnet", "vgg16", "resnet18", "resnet50", "resnet50w2", "resnet18-l", "resnet50-l"
    ] = setting(
        "resnet50",
        "backbone (alexnet and vgg16 with batch norm; -l on lightness alone, layer4 at stride 1)",
        heading="Method",
    )
    bn_groups: NotNegative = setting(
        0,
        "groups of the global batch with batch-norm statistics of their own; 0: one a process, "
        "or the method's own number",
    )
    # views
    recipe: Annotated[str, one_of(RECIPES)] = setting(
        next(iter(RECIPES)), f"augmentations that the settings below start from: {_RECIPE_NAMES}"
    )
    image_size: Annotated[int, Field(ge=8)] = setting(
        224, "side of a view in pixels", heading="Method"
    )
    # optimisation
    epochs: Annotated[int, Field(ge=1, le=10**6)] = setting(
        200, "passes over the images", heading="Method"
    )
    batch_size: Count = setting(256, "images a step, over all processes", heading="Method")
    lr: Rate = setting(
        0.03, "learning rate at a batch of `lr_batch`; scaled linearly for others", heading="Method"
    )
    lr_batch: Count | Literal["fixed"] = setting(256, "batch that `lr` is for; 'fixed': no scaling")
    momentum: Annotated[float, Field(ge=0, lt=1)] = setting(0.9, "SGD's momentum")
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = setting(
        1e-4, "weight decay, on every parameter"
    )
    schedule: Literal["step", "cosine"] = setting("step", "of the learning rate, epoch by epoch")
    milestones: tuple[Positive, ...] = setting(
        (0.6, 0.8), "decays of the step schedule: below 1 shares of the run, else epochs"
    )
    lr_decay: Rate = setting(0.1, "factor at each milestone")
    warmup_epochs: Strength = setting(0.0, "epochs of linear warm-up")
    accumulate: Count = setting(1, "parts that a process's batch is computed in, to save memory")
    init: str | None = setting(None, "backbone.pt or torchvision state_dict to start from")
    # run
    seed: Annotated[int, Field(ge=0, lt=2**64)] = setting(0, "of everything random", heading="Run")
    device: str = setting("auto", "where it trains: auto, cpu, cuda, cuda:1, ...", heading="Run")
    workers: Annotated[int, Field(ge=0, le=1024)] | None = setting(
        None,
        "loading processes of each training process",
        heading="Run",
        shown_default="its share of the CPU cores",
    )
    decode: Literal["workers", "device"] = setting(
        "workers", "who decodes JPEGs: the loading processes, or the device (CUDA: nvJPEG)"
    )
    precision: Literal["auto", "native", "float32", "bfloat16"] = setting(
        "auto",
        "of the network's forward pass; auto: bfloat16 on CUDA, else float32; native: also on CPUs "
        "that compute in it",
    )
    channels_last: bool = setting(True, "memory layout of images and feature maps")
    compile: bool = setting(
        False, "run network and augmentation through torch.compile", heading="Run"
    )
    log_every: Count = setting(10, "steps between writes to metrics.jsonl (each step has its line)")
    checkpoint_every_steps: NotNegative = setting(
        0, "steps between checkpoints within an epoch; 0: none"
    )
    checkpoint_every_minutes: Strength = setting(
        15.0, "minutes between checkpoints within an epoch; 0: none"
    )
    keep_checkpoints: Annotated[int, Field(ge=2)] = setting(2, "newest checkpoints that are kept")
    knn_every: NotNegative = setting(5, "epochs between kNN figures; 0: none")
    knn_images: str | None = setting(
        None, "folder of labelled images to classify; default: some of IMAGES, each by the others"
    )
    knn_limit: Annotated[int, Field(ge=2)] = setting(20000, "most images on either side of the kNN")
    knn_k: Count = setting(200, "neighbours of the kNN")
    knn_temperature: Positive = setting(0.07, "temperature of its weights, exp(similarity / T)")

    @model_validator(mode="before")
    @classmethod
    def _switches(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Fill in from the recipe what was left open."""
        recipe = values.get("recipe", next(iter(RECIPES)))
        if isinstance(recipe, str) and recipe in RECIPES:
            switches = RECIPES[recipe]()
            values = switches.model_dump(include=Switches.model_fields.keys()) | values
        return values

    def view_recipe(self) -> ViewRecipe:
        """Return the views' recipe for the loader and the augmentation."""
        switches = self.model_dump(include=Switches.model_fields.keys())
        views = load_method(self.method.name).count_views(self.method)
        return ViewRecipe(views=views, image_size=self.image_size, **switches)

    def paste_settings(self) -> PasteSettings:
        """Return the copy-paste settings."""
        return PasteSettings(**self.model_dump(include=PasteSettings.model_fields.keys()))

    def scaled_lr(self) -> float:
        """Return the learning rate at this batch size (Goyal et al. 2017: linear in the batch)."""
        return self.lr if self.lr_batch == "fixed" else self.lr * self.batch_size / self.lr_batch


def build_settings(*layers: Mapping[str, Any]) -> Settings:
    """Merge layers of settings, later ones winning, and check the whole.

    A layer's method is its name or a `[method]` table; what is not a setting of the run is one of
    the method's. The defaults of other methods are skipped: a run's old record has them all.

    Raises UserError: unknown names (with the nearest known one), wrong types or values.
    """
    common: dict[str, Any] = {}
    own: dict[str, Any] = {"name": next(iter(METHODS))}
    for layer in layers:
        method = layer.get("method") or {}
        table = method if isinstance(method, Mapping) else {"name": method}
        for name, value in layer.items():
            (common if name in Settings.model_fields else own)[name] = value
        own |= table
    common.pop("method", None)
    common, own = ({n: v for n, v in d.items() if v is not None} for d in (common, own))
    method = load_method(own["name"])
    record = method.Settings
    for name in sorted(own.keys() - record.model_fields.keys()):
        _check_other(name, own.pop(name), record, own["name"])
    _check_types(common, Settings)
    _check_types(own, record)
    if common.get("background_pool"):
        common = {"background": background_of(common["background_pool"])} | common
    return build(Settings, method.defaults, common, {"method": build(record, own)})


def _check_other(name: str, value: Any, record: type[Record], method: str) -> None:
    """Refuse a setting that this method lacks, unless it is the default of another method's."""
    for other in METHODS:
        field = load_method(other).Settings.model_fields.get(name)
        if field is not None and value == field.get_default():
            return
        if field is not None:
            raise UserError(
                f"{name} is {value!r}, which is for {other}; leave it out for {method}."
            )
    remedy = nearest(name, [*Settings.model_fields, *record.model_fields])
    if name in Settings.model_fields:
        raise UserError(f"{name} is no setting of the method; write it outside of [method].")
    if isinstance(value, Mapping):
        remedy = "the only table of settings is [method]."
    raise UserError(
        f"there is no setting {name!r}; {remedy or 'see `pretrain --settings` for all.'}"
    )


def _check_types(values: Mapping[str, Any], record: type[Record]) -> None:
    """Refuse text that config.toml could not hold, and switches that would pass for 0 and 1."""
    for name, value in values.items():
        kind = record.model_fields[name].annotation
        if isinstance(value, str) and not is_utf8(value):
            raise UserError(f"{name} is {value!r}, which is not UTF-8; rename it.")
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise UserError(f"{name} is {str(value).lower()}, and no switch; give its value.")


def read_config(path: str | Path, row: str | None = None) -> dict[str, Any]:
    """Return the settings of a TOML file, or of one of its rows, not yet checked.

    A row is a section; what it says for its reader (`ROW_NOTES`) is left out.
    """
    content = read_toml(path)
    rows = [name for name, value in content.items() if isinstance(value, dict) and name != "method"]
    if row is None and not rows:
        return content
    if row not in rows:
        remedy = f"its rows are {', '.join(rows[:3])}, ..." if rows else "leave out --row."
        if row is None:
            raise UserError(f"--config {str(path)!r} has rows; choose one by --row; {remedy}")
        raise UserError(
            f"--row is {row!r}, which --config {str(path)!r} lacks; {nearest(row, rows) or remedy}"
        )
    return {name: value for name, value in content[row].items() if name not in ROW_NOTES}


def describe_settings() -> str:
    """Return every setting of a run and of every method with its default and meaning."""
    texts = [list_settings(Settings, build_settings())]
    for name in METHODS:
        method = load_method(name)
        own = ", ".join(f"{setting} = {value}" for setting, value in method.defaults.items())
        own = own and f"# its own defaults: {own}\n"
        texts.append(
            f"\n# with method = {name}\n{own}"
            + list_settings(method.Settings, method.Settings(name=name), "method.")
        )
    return "\n".join(texts)

"""The settings of a training run: names, types, defaults, and where they come from.

The defaults are the paper's ablation recipe (DiLo, arXiv 2004.06638, section 5): InstDisc,
ResNet-50, K = 4096, copy-paste with probability .5 on grayscale backgrounds. They are overridden
by a TOML file, that by the command's options, and those by `--set name=value`.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.backgrounds import BACKGROUNDS, check_background
from data.errors import UserError
from data.keys import is_utf8
from data.options import one_of
from pretrain.views.recipes import BLEND_SIGMA_MOST, PasteSettings, ViewRecipe, instdisc, moco_v2

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Sigma = Annotated[float, Field(gt=0, le=BLEND_SIGMA_MOST)]
Rate = Annotated[float, Field(gt=0, le=1e6)]

_RECIPES = {"instdisc": instdisc, "moco-v2": moco_v2}
# settings that a recipe decides unless they are given, and their names in ViewRecipe
_OF_RECIPE = (
    "crop",
    "scale",
    "flip",
    "gray",
    "jitter",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "blur",
    "blur_sigma",
    "gray_first",
)

# settings that may change on resume: they alter speed and reports, never a loss (but for rounding)
FREE_ON_RESUME = frozenset(
    {
        "images",
        "masks",
        "background_pool",
        "workers",
        "device",
        "compile",
        "log_every",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "keep_checkpoints",
        "knn_every",
        "knn_images",
        "knn_limit",
        "knn_k",
        "knn_temperature",
    }
)


def _setting(default: Any, text: str) -> Any:
    return Field(default, description=text)


class Settings(BaseModel):
    """Every setting of a run, checked and complete."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # data
    images: str = _setting("", "folder of images")
    masks: str | None = _setting(None, "folder of their mask shards; not needed without pasting")
    allow_missing_masks: bool = _setting(False, "use images without a mask, unpasted")
    # method
    method: Literal["instdisc", "moco"] = _setting("instdisc", "pretraining method")
    arch: Literal["alexnet", "vgg16", "resnet18", "resnet50", "resnet50w2"] = _setting(
        "resnet50", "backbone (alexnet and vgg16 with batch norm)"
    )
    dim: Annotated[int, Field(ge=1, le=2**16)] = _setting(128, "dimensions of the embedding")
    temperature: Positive = _setting(0.07, "tau (MoCo v2: .2)")
    negatives: Count | Literal["all"] | None = _setting(
        None, "K; for instdisc a number (4096) or 'all', for moco the queue's length (65536)"
    )
    shared_negatives: bool = _setting(
        False, "instdisc: one set of K negatives for the whole batch, not one for each sample"
    )
    loss: Literal["softmax", "nce"] = _setting("softmax", "instdisc: softmax NCE or original NCE")
    bank_momentum: Probability = _setting(
        0.5, "instdisc: share of the old vector in the bank's update"
    )
    key_momentum: Probability = _setting(0.999, "moco: momentum of the key encoder")
    mlp: bool = _setting(False, "MLP head (MoCo v2)")
    head_norm: bool = _setting(
        False, "batch norm in the MLP head, not published with MoCo v2; for small data sets"
    )
    bn_groups: Annotated[int, Field(ge=0)] = _setting(
        0,
        "groups of the global batch with batch-norm statistics of their own; 0: one a process, "
        "for moco 8, as on the authors' 8 GPUs",
    )
    # views
    recipe: Literal["instdisc", "moco-v2"] = _setting(
        "instdisc", "augmentations that the settings below start from (instdisc is also MoCo v1's)"
    )
    image_size: Annotated[int, Field(ge=8)] = _setting(224, "side of a view in pixels")
    crop: Literal["scale", "spatial", "center"] | None = _setting(None, "kind of crop")
    scale: tuple[Positive, Positive] | None = _setting(
        None, "range of the crop's share of the area"
    )
    flip: Probability | None = _setting(None, "probability of a horizontal flip")
    gray: Probability | None = _setting(None, "probability of graying")
    jitter: Probability | None = _setting(None, "probability of colour jitter")
    brightness: NotNegative | None = _setting(None, "strength of the jitter in brightness")
    contrast: NotNegative | None = _setting(None, "strength of the jitter in contrast")
    saturation: NotNegative | None = _setting(None, "strength of the jitter in saturation")
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = _setting(
        None, "strength of the jitter in hue"
    )
    blur: Probability | None = _setting(None, "probability of Gaussian blur")
    blur_sigma: tuple[Sigma, Sigma] | None = _setting(None, "range of its sigma, view's pixels")
    gray_first: bool | None = _setting(None, "graying before the jitter, not after it")
    # copy-paste
    paste_probability: Probability = _setting(0.5, "probability of pasting a view's foreground")
    background: Annotated[str, one_of(BACKGROUNDS)] = _setting(
        "grayscale", "what foregrounds are pasted on"
    )
    background_pool: str | None = _setting(
        None, "folder of textures, or pool made by `mask-shards backgrounds`"
    )
    blend: Literal["none", "gaussian", "mix"] = _setting("none", "blending of the mask's border")
    blend_sigma: Sigma = _setting(5.0, "sigma of that blending, pixels of the original image")
    # optimisation
    epochs: Annotated[int, Field(ge=1, le=10**6)] = _setting(200, "passes over the images")
    batch_size: Count = _setting(256, "images a step, over all processes")
    lr: Rate = _setting(0.03, "learning rate at a batch of `lr_batch`; scaled linearly for others")
    lr_batch: Count | Literal["fixed"] = _setting(
        256, "batch that `lr` is for; 'fixed': no scaling"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = _setting(0.9, "SGD's momentum")
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = _setting(
        1e-4, "weight decay, on every parameter"
    )
    schedule: Literal["step", "cosine"] = _setting("step", "of the learning rate, epoch by epoch")
    milestones: tuple[Positive, ...] = _setting(
        (0.6, 0.8), "decays of the step schedule: below 1 shares of the run, else epochs"
    )
    lr_decay: Rate = _setting(0.1, "factor at each milestone")
    warmup_epochs: NotNegative = _setting(0.0, "epochs of linear warm-up")
    accumulate: Count = _setting(1, "parts that a process's batch is computed in, to save memory")
    init: str | None = _setting(None, "backbone.pt or torchvision state_dict to start from")
    # run
    seed: Annotated[int, Field(ge=0, lt=2**64)] = _setting(0, "of everything random")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, ...")
    workers: Annotated[int, Field(ge=0, le=1024)] | None = _setting(
        None, "loading processes of each training process; default: its share of the CPU cores"
    )
    decode: Literal["workers", "device"] = _setting(
        "workers", "who decodes JPEGs: the loading processes, or the device (CUDA: nvJPEG)"
    )
    precision: Literal["auto", "float32", "bfloat16"] = _setting(
        "auto", "of the network's forward pass; auto: bfloat16 on CUDA, else float32"
    )
    channels_last: bool = _setting(True, "memory layout of images and feature maps")
    compile: bool = _setting(False, "torch.compile the encoder and the augmentation")
    log_every: Count = _setting(
        10, "steps between writes to metrics.jsonl (each step has its line)"
    )
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = _setting(
        0, "steps between checkpoints within an epoch; 0: none"
    )
    checkpoint_every_minutes: NotNegative = _setting(
        15.0, "minutes between checkpoints within an epoch; 0: none"
    )
    keep_checkpoints: Annotated[int, Field(ge=2)] = _setting(2, "newest checkpoints that are kept")
    knn_every: Annotated[int, Field(ge=0)] = _setting(5, "epochs between kNN figures; 0: none")
    knn_images: str | None = _setting(
        None, "folder of labelled images to classify; default: some of IMAGES, each by the others"
    )
    knn_limit: Annotated[int, Field(ge=2)] = _setting(
        20000, "most images on either side of the kNN"
    )
    knn_k: Count = _setting(200, "neighbours of the kNN")
    knn_temperature: Positive = _setting(0.07, "temperature of its weights, exp(similarity / T)")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Put what depends on other settings in the place of what was left open."""
        values = {name: value for name, value in values.items() if value is not None}
        for name, value in values.items():  # would pass for the numbers 0 and 1
            kind = cls.model_fields[name].annotation
            if isinstance(value, str) and not is_utf8(value):  # config.toml could not hold it
                raise ValueError(f"{name} is {value!r}, which is not UTF-8; rename it")
            if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
                raise ValueError(f"{name} is {str(value).lower()}, and no switch; give its value")
        moco = values.get("method") == "moco"
        values.setdefault("negatives", 65536 if moco else 4096)
        recipe = _RECIPES[values["recipe"] if values.get("recipe") == "moco-v2" else "instdisc"]()
        for name in _OF_RECIPE:
            values.setdefault(name, getattr(recipe, name))
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if self.method == "moco" and self.negatives == "all":
            raise ValueError("negatives is 'all', which is for instdisc; give moco a queue length")
        if self.loss == "nce" and self.negatives == "all":
            raise ValueError("negatives is 'all', which the loss nce cannot use; give a number")
        if self.loss == "nce" and self.method == "moco":
            raise ValueError("loss is 'nce', which is for instdisc; leave it out for moco")
        if self.head_norm and not self.mlp:
            raise ValueError("head_norm is true, and it is a layer of the MLP head; set mlp = true")
        for name in ("scale", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is ({low}, {high}), from high to low; exchange them")
        if self.scale[1] > 1:
            raise ValueError(
                f"scale reaches to {self.scale[1]}, more than the image; give at most 1"
            )
        if self.paste_probability:
            check_background(self.background, self.background_pool)
        return self

    def view_recipe(self) -> ViewRecipe:
        """Return the views' recipe for the loader and the augmentation."""
        fields = {name: getattr(self, name) for name in _OF_RECIPE}
        views = 2 if self.method == "moco" else 1
        return ViewRecipe(views=views, image_size=self.image_size, **fields)

    def paste_settings(self) -> PasteSettings | None:
        """Return the copy-paste settings, or None where nothing is pasted."""
        if self.paste_probability == 0:
            return None
        return PasteSettings(
            probability=self.paste_probability,
            background=self.background,
            pool=self.background_pool,
            blend=self.blend,
            sigma=self.blend_sigma,
        )

    def scaled_lr(self) -> float:
        """Return the learning rate at this batch size (Goyal et al. 2017: linear in the batch)."""
        return self.lr if self.lr_batch == "fixed" else self.lr * self.batch_size / self.lr_batch

    def to_toml(self) -> str:
        """Return the settings as TOML; what is None has no line."""
        values = self.model_dump(mode="json", exclude_none=True)
        # JSON's strings, numbers, booleans and lists of them are TOML's
        return "".join(
            f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()
        )


def build_settings(*layers: dict[str, Any]) -> Settings:
    """Merge layers of settings, later ones winning, and check the whole.

    Raises
    ------
    UserError
        Unknown names (with the nearest known one), wrong types or values; one sentence.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for name in layer:
            if name not in Settings.model_fields:
                raise UserError(f"there is no setting {name!r}; {_nearest(name, layer[name])}")
        merged.update(layer)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise UserError(_sentence(error)) from None


def _nearest(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return "write settings without a [section] above them."
    close = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "see `pretrain --settings`."


def _sentence(error: ValidationError) -> str:
    """Return the first complaint as one sentence naming setting, value and remedy."""
    first = error.errors()[0]
    if not first["loc"]:
        return f"{first['msg'].removeprefix('Value error, ')}."
    name, value = first["loc"][0], first["input"]
    asked = first["msg"][0].lower() + first["msg"][1:]
    if name in ("negatives", "lr_batch"):
        other = "all" if name == "negatives" else "fixed"
        asked = f"input should be a number of at least 1, or {other!r}"
    elif first["type"] in ("tuple_type", "missing", "too_long"):
        example = list(getattr(build_settings({}), name))
        count = "numbers" if name == "milestones" else "two numbers"
        asked = f"input should be a list of {count}, as {example}"
    if first["type"] == "value_error":
        return f"the setting {name} is {value!r}; {first['msg'].removeprefix('Value error, ')}."
    return f"the setting {name} is {value!r}; its {asked}.".replace("its input", "it").replace(
        "its value", "the value"
    )


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the settings of a TOML file, not yet checked."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"the configuration {str(path)!r} cannot be read ({error.strerror}); give a TOML file."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the configuration {str(path)!r} is not TOML: {error}.") from None


def parse_assignment(text: str) -> dict[str, Any]:
    """Return {name: value} of `name=value`; the value is TOML, or else a bare string.

    What takes text alone, such as a folder, gets it: `masks=3` is a folder named 3.
    """
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name:
        raise UserError(f"--set {text!r} is not of the form name=value, such as image_size=64.")
    bare = value.strip()
    try:
        parsed = tomllib.loads(f"value = {bare}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return {name: bare}
    field = Settings.model_fields.get(name)
    text_alone = field is not None and field.annotation in (str, str | None)
    return {name: bare if text_alone and not isinstance(parsed, str) else parsed}

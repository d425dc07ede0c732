"""Networks by name: build a backbone, and recognise one by the names and shapes of its weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache

import torch
import torchvision
from torch import Tensor, nn

from data.errors import UserError
from pretrain.parts import backbones

# DiLo's own names where torchvision calls another network by them, or none.
DILO_NAMES = {"alexnet": "alexnet_bn", "vgg16": "vgg16_bn"}
DILO_ONLY = {"alexnet_bn": "alexnet", "resnet50w2": "resnet50w2"}

# Recognised by their keys alone, in this order. Any other network of torchvision needs --arch.
RECOGNISED = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnet50w2"),
    *("alexnet", "alexnet_bn"),
    *("vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
)
ANCHORS = ("conv1.weight", "features.0.weight")  # first keys of the families above


@cache
def names() -> tuple[str, ...]:
    """All names that `build` takes: torchvision's classification networks, and DiLo's two more."""
    there = torchvision.models.list_models(module=torchvision.models, exclude="squeezenet*")
    return (*there, *DILO_ONLY)  # SqueezeNet has no linear layer and so no penultimate features


def build(arch: str) -> nn.Module:
    """Build a backbone, randomly initialised: images to penultimate features.

    The classifier is the identity, every other name is torchvision's.
    """
    if arch not in names():
        close = difflib.get_close_matches(arch, names(), n=3) or ["resnet18", "resnet50"]
        raise UserError(
            f"there is no network '{arch}'; names are, for example, {', '.join(close)}."
        )
    if arch in DILO_ONLY:
        return backbones.build_backbone(DILO_ONLY[arch])
    model = torchvision.models.get_model(arch, weights=None)
    parent, _, child = _last_linear(model).rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _last_linear(model: nn.Module) -> str:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


@cache
def classifier(arch: str) -> str:
    """The name of the layer that reads classes off the penultimate features, such as `fc`."""
    if arch in DILO_ONLY:
        return backbones.CLASSIFIER[DILO_ONLY[arch]]
    with torch.device("meta"):
        return _last_linear(torchvision.models.get_model(arch, weights=None))


def is_classifier(key: str, arch: str) -> bool:
    """Whether a key belongs to the classifier, or to what took its place: `fc.0.weight`."""
    return key.startswith(classifier(arch) + ".")


@cache
def backbone_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the backbone's state_dict by key; nothing is allocated."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build(arch).state_dict().items()}


def find_prefix(keys: Iterable[str], anchors: Iterable[str] = ANCHORS) -> str:
    """The prefix before a network's own names: `module.encoder_q.` of `module.encoder_q.bn1.bias`.

    Where several networks are in one file, the one that was trained by gradients is taken: MoCo's
    `encoder_q`, not its `encoder_k`; `student` or `base_encoder`, not `teacher` or a momentum one.
    """
    prefixes = {
        key[: -len(anchor)]
        for anchor in anchors
        for key in keys
        if key == anchor or key.endswith("." + anchor)
    }
    # `layer1.0.conv1.weight` ends like the first key of a network, too
    prefixes = {p for p in prefixes if not any(o != p and p.startswith(o) for o in prefixes)}
    return min(prefixes, key=_prefix_rank, default="")


def _prefix_rank(prefix: str) -> tuple[bool, int, str]:
    slow = any(word in prefix for word in ("encoder_k", "momentum", "teacher", "ema", "target"))
    return slow, prefix.count("."), prefix


def mismatch(state: Mapping[str, Tensor], arch: str) -> str | None:
    """One clause on how a state_dict differs from a backbone, or None where it fits.

    A missing `num_batches_tracked` is no difference: PyTorch before 0.4.1 had none, and evaluation
    does not read it.
    """
    shapes = backbone_shapes(arch)
    missing = [k for k in shapes if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        return f"{len(missing)} keys are missing, the first {_first(missing)}"
    wrong = [k for k, shape in shapes.items() if k in state and tuple(state[k].shape) != shape]
    if wrong:
        has, needs = tuple(state[wrong[0]].shape), shapes[wrong[0]]
        return f"{wrong[0]} has the shape {has} in place of {needs}"
    foreign = [k for k in state if k not in shapes and not is_classifier(k, arch)]
    if foreign:
        return f"{len(foreign)} keys are not {arch}'s, the first {_first(foreign)}"
    return None


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3])


def recognise(state: Mapping[str, Tensor]) -> str:
    """The architecture whose backbone these weights fit; `UserError` names the closest."""
    fit = next((arch for arch in RECOGNISED if mismatch(state, arch) is None), None)
    if fit is not None:
        return fit

    def shared(arch: str) -> int:
        shapes = backbone_shapes(arch)
        return sum(k in state and tuple(state[k].shape) == shape for k, shape in shapes.items())

    closest = max(RECOGNISED, key=shared)
    raise UserError(
        f"the weights fit no network that is recognised by its keys (closest is {closest}, but "
        f"{mismatch(state, closest)}); name torchvision's network by --arch."
    )

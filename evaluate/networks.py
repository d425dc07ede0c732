"""Networks by name: build a backbone, and recognise one by the names and shapes of its weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache

import torchvision
from torch import Tensor, nn

from data import weights
from data.errors import UserError
from pretrain.parts import backbones
from pretrain.parts.small_maps import crop_kernels

# DiLo's own names where torchvision calls another network by them, or none.
DILO_NAMES = {"alexnet": "alexnet_bn", "vgg16": "vgg16_bn"}
DILO_ONLY = {"alexnet_bn": "alexnet"} | {n: n for n in ("resnet50w2", "resnet18-l", "resnet50-l")}

# Recognised by their keys alone, in this order. Any other network of torchvision needs --arch.
RECOGNISED = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnet50w2"),
    *("resnet18-l", "resnet50-l"),  # by the one channel of conv1
    *("alexnet", "alexnet_bn"),
    *("vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
)
ANCHORS = ("conv1.weight", "features.0.weight")  # first keys of the families above


@cache
def names() -> tuple[str, ...]:
    """All names that `build` takes: torchvision's classification networks, and DiLo's own."""
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
    model = _of_torchvision(arch)
    parent, _, child = weights.last_linear(model).rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    crop_kernels(model)
    return model


def _of_torchvision(arch: str) -> nn.Module:
    return torchvision.models.get_model(arch, weights=None)


@cache
def classifier(arch: str) -> str:
    """The name of the layer that reads classes off the penultimate features, such as `fc`."""
    if arch in DILO_ONLY:
        return backbones.CLASSIFIER[DILO_ONLY[arch]]
    return weights.last_linear(weights.skeleton(lambda: _of_torchvision(arch)))


@cache
def backbone_tensors(arch: str) -> dict[str, Tensor]:
    """The backbone's state_dict, of shapes without memory where it can be."""
    return weights.skeleton(lambda: build(arch)).state_dict()


def differences(state: Mapping[str, Tensor], arch: str) -> str:
    """Return how a state_dict differs from a backbone and any classifier, "" where it fits."""
    return weights.differences(state, backbone_tensors(arch), classifier(arch) + ".")


def recognise(state: Mapping[str, Tensor], name: str) -> str:
    """The architecture whose backbone the weights of `name` fit; `UserError` says the closest."""
    for arch in RECOGNISED:
        if not differences(state, arch):
            return arch

    def shared(arch: str) -> int:
        wanted = backbone_tensors(arch).items()
        return sum(key in state and state[key].shape == value.shape for key, value in wanted)

    closest = max(RECOGNISED, key=shared)
    raise UserError(
        f"{name}: the weights fit no network that is recognised by its keys (closest is {closest}, "
        f"but {differences(state, closest)}); name torchvision's network by --arch."
    )

"""Classifiers for class-specific saliency: load a network, find its head, choose its classes."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from data.device import computing_in, memory_layout, sent
from data.errors import UserError
from data.images import IMAGENET_MEAN, IMAGENET_STD
from data.images.labels import labels_from_folders
from data.keys import Keys
from data.loading import of_channels
from data.weights import (
    differences,
    fill,
    last_linear,
    network_in,
    read_weights,
    skeleton,
    split_choice,
    state_dict_of,
)
from saliency.methods.protocol import ClassifierSettings

SIZE = 224
"""Side of the square that ImageNet classifiers are trained on, in pixels."""

_MEAN = np.array(IMAGENET_MEAN, np.float32)
_STD = np.array(IMAGENET_STD, np.float32)
_USUAL = ("resnet50", "resnet18", "resnet34", "resnet101", "vgg16", "vgg16_bn", "alexnet")


def preprocess(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    """uint8 RGB (h, w, 3) to the classifier's input, float32 (3, size, size).

    The whole image is made square, antialiased, so that the map covers every pixel of it;
    then ImageNet's mean and standard deviation.
    """
    smaller = image.shape[0] >= size and image.shape[1] >= size
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized = cv2.resize(image, (size, size), interpolation=method).astype(np.float32) / 255
    return np.ascontiguousarray(((resized - _MEAN) / _STD).transpose(2, 0, 1))


def to_picture(prepared: np.ndarray) -> np.ndarray:
    """Undo `preprocess` but for the size: float32 (3, s, s) to uint8 RGB (s, s, 3)."""
    picture = (prepared.transpose(1, 2, 0) * _STD + _MEAN) * 255
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def pixel_scale(like: Tensor) -> Tensor:
    """d(input)/d(pixel) of `preprocess` by channel, (1, 3, 1, 1), for pixels in [0, 1]."""
    return of_channels((1 / _STD).tolist(), like)[None]


def load_classifier(path: str | os.PathLike, arch: str | None = None) -> tuple[nn.Module, str]:
    """Build the torchvision classifier that a checkpoint holds, on the CPU, in evaluation mode.

    path : a state_dict with torchvision's names and a linear head of any number of classes, plain
        or as trainers save it (`data.weights`).
    arch : torchvision's name, such as "resnet50"; None takes the first whose names and shapes fit.

    Returns the network and its name.

    Raises UserError: no such file, not a state_dict, an unknown name, or weights that do not fit.
    """
    file, choice = split_choice(path)
    state = state_dict_of(read_weights(file, "--weights"), f"--weights {str(file)!r}")
    known = torchvision.models.list_models(module=torchvision.models)
    if arch is not None and arch not in known:
        raise UserError(f"--arch {arch} is not a classifier of torchvision's; give resnet50, say.")
    small = [name for name in known if not name.startswith("regnet")]  # they cannot lack memory
    for name in sorted(small, key=lambda name: name not in _USUAL) if arch is None else [arch]:
        network = skeleton(partial(_build, name))
        difference = _fill(network, state, choice)
        if not difference:
            return network.eval(), name
    what = f"is not a {arch} with a linear head ({difference})"
    what = "fits none of torchvision's classifiers" if arch is None else what
    raise UserError(f"--weights {path} {what}; give another checkpoint, or its --arch.")


def _build(name: str) -> nn.Module:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **extra)


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], choice: str) -> str:
    """Put a state_dict into a skeleton; what differs, and nothing is put, or an empty string."""
    name = last_linear(network)
    if name is None:
        return "it has no linear head"
    head = network.get_submodule(name)
    try:
        state, _ = network_in(tensors, [next(iter(network.state_dict()))], choice, "it")
    except UserError as several:  # blocks of another network may begin as this network does
        return several.message.rstrip(".")
    weight = state.get(f"{name}.weight")
    if weight is not None and weight.ndim == 2 and weight.shape[0] != head.out_features:
        head = nn.Linear(head.in_features, weight.shape[0], head.bias is not None, device="meta")
        network.set_submodule(name, head)
    difference = differences(state, network.state_dict())
    if not difference:
        fill(network, state)
    return difference


def head_of(network: nn.Module) -> nn.Linear:
    """Return the last linear layer: the head, in all of torchvision's. UserError: there is none."""
    name = last_linear(network)
    if name is None:
        raise UserError(f"a {type(network).__name__} has no linear head; give another --weights.")
    return network.get_submodule(name)


def check_size(network: nn.Module, size: int) -> None:
    """Try a square input of this side on an image.

    UserError: the network takes none of that side, as smaller than its pools, or not a
    transformer's own.
    """
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"--input-size {size} does not fit this {type(network).__name__} "
            f"({' '.join(str(error).split())[:100].rstrip('.')}); give the side it was trained on."
        ) from None


def folder_classes(keys: Keys, classes: int) -> dict[str, int]:
    """Return the number of each class folder among the sorted ones (`data.images.labels`).

    keys : of all images; the first folder of a key is its class.
    classes : of the network; as many folders must be there.

    UserError: images outside of folders, or another number of folders than of classes.
    """
    labels = labels_from_folders(keys)
    names = [] if labels is None else labels.class_names
    if len(names) != classes:
        raise UserError(
            f"--labels folder: the images lie in {len(names)} class folders and the network knows "
            f"{classes} classes; give the images of all classes, or use --labels predicted."
        )
    return {name: number for number, name in enumerate(names)}


class ClassMethod:
    """A classifier on its device, as `saliency.methods.protocol.NetworkMethod` asks for it.

    A method derives from it, with `maps` and `finish`.

    network : images to class scores, with a linear head.
    precision : autocast to bfloat16 or float16; None computes in float32, without TF32.
    classes : class number by folder (`folder_classes`); None takes what the network predicts.
    size : side of the square input in pixels.

    Raises UserError: the network takes no input of that side.
    """

    parameters: dict[str, Any]

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: torch.dtype | None = None,
        batch_size: int = 64,
        classes: dict[str, int] | None = None,
        size: int = SIZE,
    ) -> None:
        self.device, self.precision, self.batch_size = device, precision, batch_size
        self.classes = classes
        self.decode_side = 2 * size
        self.prepare = partial(preprocess, size=size)
        network = network.eval().requires_grad_(False)
        check_size(network, size)
        self.network = network.to(device, memory_format=memory_layout(device))

    @classmethod
    def build(cls, name: str, settings: ClassifierSettings, keys: Keys) -> "ClassMethod":
        """Load the classifier for the method `name`; see `NetworkBuilder` in the protocol."""
        device, precision, batch_size = settings.arithmetic(name)
        network, arch = load_classifier(settings.weights, settings.arch)
        classes = None
        if settings.labels == "folder":
            classes = folder_classes(keys, head_of(network).out_features)
        size = settings.input_size or SIZE
        method = cls(network, device, precision, batch_size, classes, size)
        labels = settings.labels or "predicted"
        recorded = settings.recorded(precision)
        method.parameters = {**recorded, "input_size": size, "arch": arch, "labels": labels}
        return method

    def compute(self, batch: Tensor, keys: list[str]) -> Tensor:
        """Return each image's map, (N, h, w), on the device."""
        classes = None
        if self.classes is not None:
            indices = [self.classes[key.split("/", 1)[0]] for key in keys]
            classes = sent(torch.tensor(indices), self.device)
        with computing_in(self.precision, self.device):
            return self.maps(batch, classes)[0]

    def maps(self, batch: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return maps (N, h, w) and classes (N,); `classes` None: the highest score of each."""
        raise NotImplementedError

"""Classifiers for class-specific saliency: load one, find its linear head, choose its classes."""

import os
from collections.abc import Mapping

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from data.errors import UserError
from data.images.channel_statistics import IMAGENET_MEAN, IMAGENET_STD
from data.images.labels import labels_from_folders
from data.keys import Keys
from data.loading import of_channels
from data.weights import read_weights
from saliency.state_dict import describe, differences, is_state_dict

SIZE = 224
"""Side of the square that ImageNet classifiers are trained on, in pixels."""

_MEAN = np.array(IMAGENET_MEAN, np.float32)
_STD = np.array(IMAGENET_STD, np.float32)
_USUAL = ("resnet50", "resnet18", "resnet34", "resnet101", "vgg16", "vgg16_bn", "alexnet")
_WRAPPINGS = ("state_dict", "model", "model_state_dict")  # of PyTorch's own and other examples


def preprocess(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    """uint8 RGB (h, w, 3) to the classifier's input, float32 (3, size, size).

    The whole image is made square, antialiased, so that every pixel of it has a place in the map;
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
    """Build the torchvision classifier that a checkpoint holds.

    Parameters
    ----------
    path
        A state_dict with torchvision's names and a linear head of any number of classes, plain or
        under `state_dict` or `model`, with or without DistributedDataParallel's `module.`.
    arch : str, optional
        torchvision's name, such as "resnet50"; None finds the one whose keys and shapes fit.

    Returns
    -------
    (nn.Module, str)
        On the CPU, in evaluation mode, and its name.

    Raises
    ------
    UserError
        No such file, not a state_dict, an unknown name, or keys that do not fit.
    """
    found = _unwrap(read_weights(path, "--weights"), path)
    known = torchvision.models.list_models(module=torchvision.models)
    if arch is not None:
        if arch not in known:
            raise UserError(
                f"--arch {arch} is not a classifier of torchvision {torchvision.__version__}; "
                "use a name such as resnet50."
            )
        network = _skeleton(arch) or _build(arch)
        difference = _fill(network, found)
        if difference:
            raise UserError(
                f"--weights {path} is not a {arch} with a linear head ({difference}); "
                "give another checkpoint or --arch."
            )
        return network.eval(), arch
    for name in [*_USUAL, *(name for name in known if name not in _USUAL)]:
        network = _skeleton(name)
        if network is not None and not _fill(network, found):
            return network.eval(), name
    raise UserError(
        f"--weights {path} fits none of torchvision's classifiers; "
        "name its architecture with --arch to see the keys that differ."
    )


def _unwrap(content: object, path: str | os.PathLike) -> dict[str, Tensor]:
    for name in _WRAPPINGS:
        if isinstance(content, Mapping) and is_state_dict(content.get(name)):
            content = content[name]
    if not is_state_dict(content):
        raise UserError(
            f"--weights {path} holds {describe(content)}, not a state_dict; "
            "save it as torch.save(model.state_dict(), FILE)."
        )
    return {key.removeprefix("module."): value for key, value in content.items()}


def _build(name: str) -> nn.Module:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **extra)


def _skeleton(name: str) -> nn.Module | None:
    """A network's shapes without its memory; None for the few that cannot be built so."""
    try:
        with torch.device("meta"):
            return _build(name)
    except NotImplementedError:  # RegNet computes with its weights while it is built
        return None


def _fill(network: nn.Module, found: Mapping[str, Tensor]) -> str:
    """Put a state_dict into a skeleton; what differs, and nothing is put, or an empty string."""
    try:
        name, head = head_of(network)
    except UserError:
        return "it has no linear head"
    weight = found.get(f"{name}.weight")
    if weight is not None and weight.ndim == 2 and weight.shape[0] != head.out_features:
        head = nn.Linear(head.in_features, weight.shape[0], head.bias is not None, device="meta")
        network.set_submodule(name, head)
    wanted = network.state_dict()
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]
    if not any(key in found for key in counters):  # PyTorch 0.4 wrote none
        found = {**found, **{key: torch.zeros((), dtype=torch.int64) for key in counters}}
    difference = differences(found, wanted)
    if not difference:
        found = {key: found[key].to(wanted[key].dtype) for key in wanted}
        network.load_state_dict(found, strict=True, assign=True)
    return difference


def head_of(network: nn.Module) -> tuple[str, nn.Linear]:
    """Return name and module of the last linear layer: the head, in all of torchvision's.

    Raises
    ------
    UserError
        The network has no linear layer.
    """
    linear = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(
            f"a {type(network).__name__} has no linear head, which class-specific saliency needs; "
            "give another --weights and --arch."
        )
    return linear[-1]


def check_size(network: nn.Module, size: int) -> None:
    """Try a square input of this side on one image.

    Raises
    ------
    UserError
        The network takes none of that side: smaller than its pools, or not a transformer's own.
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
    """The class of every class folder, its place among the sorted ones (`data.images.labels`).

    Parameters
    ----------
    keys : Keys
        Of all images; the first folder of a key is its class.
    classes : int
        Of the network; as many folders must be there.

    Raises
    ------
    UserError
        Images outside of folders, or another number of folders than of classes.
    """
    labels = labels_from_folders(keys)
    if labels is None:
        raise UserError(
            "--labels folder: the images do not lie in two or more class folders; "
            "use --labels predicted."
        )
    names = labels.class_names
    if len(names) != classes:
        raise UserError(
            f"--labels folder: the images lie in {len(names)} class folders and the network knows "
            f"{classes} classes; give the images of all classes, or use --labels predicted."
        )
    return {name: number for number, name in enumerate(names)}

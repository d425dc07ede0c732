"""The options of `saliency-compute` for methods that compute on a device, and what they build."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from data.errors import UserError
from data.keys import Keys

if TYPE_CHECKING:
    from saliency.learned_method import LearnedMethod

LEARNED = ("basnet", "cam", "gradient")

_OPTIONS = (
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="basnet: basnet.pth as published or trained here. cam, gradient: a classifier with "
        "torchvision's names and a linear head.",
    ),
    click.option(
        "--arch",
        help="cam, gradient: the classifier's name in torchvision, such as resnet50. "
        "[default: the one that fits the weights]",
    ),
    click.option(
        "--labels",
        type=click.Choice(["folder", "predicted"]),
        help="cam, gradient: of the image's class, by its folder (sorted folders are the classes), "
        "or of the predicted one.  [default: predicted]",
    ),
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps."
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Images the device computes at a time.  [default: 64, on a CPU 8]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Of the network's arithmetic; auto: bf16 on a GPU that has it, float32 on a CPU.",
    ),
    click.option(
        "--compile", "compiled", is_flag=True, help="basnet: torch.compile the network first."
    ),
    click.option(
        "--input-size",
        type=click.IntRange(min=32),
        help="Side of the square that the network sees, in pixels.  [default: 256 for basnet, "
        "224 for cam and gradient]",
    ),
)
_NAMES = ("weights", "arch", "labels", "device", "batch_size", "precision", "compiled")
NAMES = (*_NAMES, "input_size")
_ONLY_UNSUPERVISED = ("superpixels", "remove_frame", "follow_edges", "backend", "scheduler")


def learned_options(command: Callable) -> Callable:
    """Add the options to a click command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_options(context: click.Context, methods: tuple[str, ...]) -> bool:
    """Whether the method is a learned one; refuse options that do not belong to it.

    Raises
    ------
    UserError
        A learned method with another one, or an option of the other kind.
    """
    learned = methods[0] in LEARNED
    foreign = _ONLY_UNSUPERVISED if learned else NAMES
    if methods[0] == "basnet":
        foreign = (*foreign, "arch", "labels")
    elif learned:
        foreign = (*foreign, "compiled")
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
        if given and parameter.name in foreign:
            raise UserError(
                f"{parameter.opts[0]} does not belong to --method {methods[0]}; leave it out."
            )
    return learned


def build_method(
    name: str,
    keys: Keys,
    weights: Path | None,
    arch: str | None,
    labels: str | None,
    device: str,
    batch_size: int | None,
    precision: str,
    compiled: bool,
    input_size: int | None,
) -> "tuple[LearnedMethod, dict[str, Any]]":
    """Load the weights onto the device.

    Parameters
    ----------
    name : {"basnet", "cam", "gradient"}
    keys : Keys
        All images below the root, whose folders are the classes with ``labels="folder"``.

    Returns
    -------
    (LearnedMethod, dict)
        And what of it shapes a mask, for the shards.

    Raises
    ------
    UserError
        Missing or foreign weights, no such device, memory, or labels that do not fit.
    """
    from data.device import default_batch_size, pick_device, pick_precision

    if weights is None:
        example = "basnet.pth" if name == "basnet" else "resnet50.pth"
        raise UserError(f"--method {name} needs --weights, a checkpoint such as {example}.")
    place = pick_device(device)
    dtype = pick_precision(precision, place)
    batch_size = batch_size or default_batch_size(place)
    parameters: dict[str, Any] = {"precision": str(dtype or "torch.float32").split(".")[-1]}
    if name == "basnet":
        from saliency.basnet import Predictor, load_basnet
        from saliency.basnet.method import SIZE, BasnetMethod

        network = load_basnet(weights)
        predictor = Predictor(network, place, dtype, batch_size, compiled)
        method = BasnetMethod(predictor, input_size or SIZE)
        parameters["input_size"] = input_size or SIZE
    else:
        from saliency.class_method import SIZE, ClassMethod
        from saliency.classifier import folder_classes, head_of, load_classifier

        network, arch = load_classifier(weights, arch)
        classes = None
        if labels == "folder":
            classes = folder_classes(keys, head_of(network)[1].out_features)
        size = input_size or SIZE
        method = ClassMethod(name, network, place, dtype, batch_size, classes, size)
        parameters |= {"input_size": size, "arch": arch, "labels": labels or "predicted"}
    parameters["weights_sha256"] = _digest(weights)
    return method, parameters


def _digest(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""CAM and class gradients as methods of `saliency-compute`."""

from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from data.device import computing_in, memory_for, memory_layout, sent
from data.keys import Keys
from saliency.basnet.preprocess import resize_map, stretch
from saliency.classifier import (
    SIZE,
    check_size,
    folder_classes,
    head_of,
    load_classifier,
    preprocess,
    to_picture,
)
from saliency.methods.cam import ClassActivation
from saliency.methods.gradient import class_gradient, segment
from saliency.methods.protocol import ClassifierSettings


def build(kind: str, settings: ClassifierSettings, keys: Keys) -> "ClassMethod":
    """Load the classifier; see `saliency.methods.protocol.NetworkBuilder`."""
    device, precision, batch_size = settings.arithmetic(kind)
    network, arch = load_classifier(settings.weights, settings.arch)
    classes = None
    if settings.labels == "folder":
        classes = folder_classes(keys, head_of(network)[1].out_features)
    size = settings.input_size or SIZE
    method = ClassMethod(kind, network, device, precision, batch_size, classes, size)
    labels = settings.labels or "predicted"
    parameters = settings.recorded(precision)
    method.parameters = {**parameters, "input_size": size, "arch": arch, "labels": labels}
    return method


class ClassMethod:
    """A classifier on its device, as `saliency.methods.protocol.NetworkMethod` asks for it.

    Parameters
    ----------
    kind : {"cam", "gradient"}
    network : nn.Module
        Images to class scores, with a linear head.
    device : torch.device
    precision : torch.dtype or None
        Autocast to bfloat16 or float16; None computes in float32, without TF32.
    batch_size : int
    classes : dict, optional
        Class index by folder (`saliency.classifier.folder_classes`); None takes what the network
        predicts.
    size : int
        Side of the square input in pixels.

    Raises
    ------
    UserError
        The network takes no input of that side, or is too large for the device.
    """

    def __init__(
        self,
        kind: str,
        network: nn.Module,
        device: torch.device,
        precision: torch.dtype | None = None,
        batch_size: int = 64,
        classes: dict[str, int] | None = None,
        size: int = SIZE,
    ) -> None:
        self.kind = kind
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.classes = classes
        self.decode_side = 2 * size
        self.prepare = partial(preprocess, size=size)
        with memory_for(batch_size, device):
            network = network.eval().requires_grad_(False)
            check_size(network, size)
            network = network.to(device, memory_format=memory_layout(device))
        self._map = ClassActivation(network) if kind == "cam" else partial(class_gradient, network)

    def compute(self, batch: Tensor, keys: list[str]) -> Tensor:
        """Each image's activation map (N, h, w) or gradient (N, S, S), on the device."""
        classes = None
        if self.classes is not None:
            indices = [self.classes[key.split("/", 1)[0]] for key in keys]
            classes = sent(torch.tensor(indices), self.device)
        with computing_in(self.precision, self.device):
            return self._map(batch, classes)[0]

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Stretch or segment, and resize; a constant result gives zeros."""
        if self.kind == "cam":
            saliency = stretch(result[None])[0]
        else:
            saliency = segment(to_picture(prepared), result).astype(np.float32)
            saliency = cv2.GaussianBlur(
                saliency, (0, 0), 1
            )  # GrabCut's edge is a pixel's staircase
        return np.clip(resize_map(saliency, size), 0, 1)

"""Class activation mapping: where a classifier finds the evidence for a class.

References
----------
.. [1] B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba. "Learning Deep Features for
   Discriminative Localization". CVPR 2016, equation 2.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.keys import Keys
from saliency.basnet.predict import resize_map, stretch
from saliency.classifier import ClassMethod, head_of
from saliency.methods.protocol import ClassifierSettings


class ClassActivation:
    """Class activation maps of a network that ends in global average pooling and a linear head.

    network : images (N, 3, H, W) to class scores (N, classes), in evaluation mode.

    Raises UserError on the first batch, when no layer's maps, averaged over space, are what the
    head sees: the maps would say nothing about the score. AlexNet and VGG are such networks.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.head = head_of(network)
        self._layer: int | None = None  # of the pooled maps among the maps seen, once known

    @torch.no_grad()
    def __call__(self, x: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return maps (N, h, w), float32 also under autocast, and the classes mapped, int64 (N,).

        x : (N, 3, H, W), preprocessed for the network.
        classes : int64 (N,); None takes each image's highest score.

        A map is the sum over channels k of w_k f_k(i, j), for the class's weights w and the last
        convolution's maps f. Its mean over (i, j) and the head's bias make the score.
        """
        with self._watch() as seen:
            scores = self.network(x)
        if self._layer is None:  # once: comparing waits for the device
            self._layer = self._find_pooled(seen)
        maps = seen["maps"][self._layer]
        if classes is None:
            classes = scores.argmax(dim=1)
        with torch.autocast(x.device.type, enabled=False):  # it would round the sum
            weights = self.head.weight[classes].float()
            return torch.einsum("nk,nkij->nij", weights, maps.float()), classes

    @contextmanager
    def _watch(self) -> Iterator[dict]:
        """Record the head's input and every layer's maps that have as many channels."""
        channels = self.head.in_features
        seen: dict = {"maps": []}

        def keep_maps(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == channels:
                seen["maps"].append(output)

        def keep_features(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            seen["features"] = inputs[0]

        hooks = [m.register_forward_hook(keep_maps) for m in self.network.modules()]
        hooks.append(self.head.register_forward_hook(keep_features))
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def _find_pooled(self, seen: dict) -> int:
        """Return the number of the largest maps whose spatial mean is the head's input."""
        features = seen["features"].float()
        if not features.isfinite().flatten(1).all(dim=1).any():
            raise UserError(
                "--method cam: what the network's head sees of the first images is not finite; "
                "use --precision float32 or other --weights."
            )
        if features.ndim == 2:
            rows = features.isfinite().all(dim=1)
            tolerance = 1e-2 * features[rows].abs().amax().clamp_min(1e-6)  # rounding of bf16
            sides = [maps.shape[-1] * maps.shape[-2] for maps in seen["maps"]]
            for number in sorted(range(len(sides)), key=lambda i: sides[i], reverse=True):
                pooled = seen["maps"][number][rows].float().mean(dim=(2, 3))
                if (pooled - features[rows]).abs().amax() <= tolerance:
                    return number
        raise UserError(
            f"--method cam needs a classifier with one linear layer after global average pooling, "
            f"as a ResNet; this {type(self.network).__name__} has none: use --method gradient."
        )


class Cam(ClassMethod):
    """CAM as a method of `saliency-compute`."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.maps = ClassActivation(self.network)

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Stretch to [0, 1] and resize; a constant map gives zeros."""
        return np.clip(resize_map(stretch(result[None])[0], size), 0, 1)


def build(settings: ClassifierSettings, keys: Keys) -> Cam:
    """Load the classifier; see `saliency.methods.protocol.NetworkBuilder`."""
    return Cam.build("cam", settings, keys)

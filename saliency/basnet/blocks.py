"""The building blocks of BASNet: residual stages, three-convolution stages, the refinement module.

The attribute names are those of the published checkpoint; a state_dict fits only with them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


def residual_stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """A stage of ResNet-34 (He et al. 2016), initialised as torchvision does."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    stage = nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut),
        *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)),
    )
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return stage


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize of (N, C, h, w) to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def downsample(x: Tensor) -> Tensor:
    """2x2 max-pool of (N, C, h, w); an odd row or column at the end keeps a cell of its own."""
    return F.max_pool2d(x, 2, ceil_mode=True)


class ConvolutionStages(nn.Module):
    """A module whose convolution-norm-ReLU layers lie flat in it as `conv<name>` and `bn<name>`.

    The published checkpoint has no nesting below the network, so a layer is looked up by its name.
    """

    def add(self, name: str, inputs: int, outputs: int, dilation: int = 1) -> None:
        """Register a 3x3 convolution with bias and its batch norm."""
        convolution = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.add_module(f"conv{name}", convolution)
        self.add_module(f"bn{name}", nn.BatchNorm2d(outputs))

    def layer(self, name: str, x: Tensor) -> Tensor:
        """ReLU(batch norm(convolution)) by the name given to `add`."""
        return F.relu(getattr(self, f"bn{name}")(getattr(self, f"conv{name}")(x)), inplace=True)

    def stage(self, name: str, x: Tensor) -> Tensor:
        """The three layers `<name>_1`, `<name>_m` and `<name>_2`, one after the other."""
        for part in ("1", "m", "2"):
            x = self.layer(f"{name}_{part}", x)
        return x


class Refinement(ConvolutionStages):
    """The residual refinement module (section 3.3): a small U-Net that corrects the coarse logits.

    channels : width of every layer; 64 as published.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, channels, 3, padding=1)
        for level in range(1, 6):
            self.add(str(level), channels, channels)
        for level in range(4, 0, -1):
            self.add(f"_d{level}", 2 * channels, channels)
        self.conv_d0 = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, coarse: Tensor) -> Tensor:
        """Coarse logits (N, 1, H, W) to refined logits (N, 1, H, W)."""
        x = self.conv0(coarse)
        skips = []
        for level in range(1, 5):
            x = self.layer(str(level), x)
            skips.append(x)
            x = downsample(x)
        x = self.layer("5", x)
        for level in range(4, 0, -1):
            skip = skips.pop()
            x = self.layer(f"_d{level}", torch.cat([resize(x, skip), skip], dim=1))
        return coarse + self.conv_d0(x)

"""The paper's networks, made of torchvision's blocks and with torchvision's parameter names.

| arch        | loads into torchvision's, but for the classifier        | features |
|-------------|---------------------------------------------------------|----------|
| alexnet     | none: AlexNet with batch norm, names as `AlexNetBN`     | 4096     |
| vgg16       | `vgg16_bn` (its last layer is `classifier.6`)           | 4096     |
| resnet18    | `resnet18` (its last layer is `fc`)                     | 512      |
| resnet50    | `resnet50`                                              | 2048     |
| resnet50w2  | none: `wide_resnet50_2` is another network; `ResNet50w2`| 4096     |
| resnet18-l  | none: `resnet18` on lightness alone, layer4 at stride 1 | 512      |
| resnet50-l  | none: `resnet50` likewise, as colourisation's (VISSL)   | 2048     |
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import Bottleneck, ResNet

from pretrain.parts.colour import denormalised, lab
from pretrain.parts.small_maps import crop_kernels

FEATURES = {
    "alexnet": 4096,
    "vgg16": 4096,
    "resnet18": 512,
    "resnet50": 2048,
    "resnet50w2": 4096,
    "resnet18-l": 512,
    "resnet50-l": 2048,
}
ARCHITECTURES = tuple(FEATURES)

CLASSIFIER = {  # the layer of torchvision's model that a backbone lacks
    arch: "fc" if arch.startswith("resnet") else "classifier.6" for arch in ARCHITECTURES
}


def feature_dim(arch: str) -> int:
    """Return the dimensions of a backbone's features."""
    return FEATURES[arch]


def build_backbone(arch: str) -> nn.Module:
    """Return a network with fresh weights: (B, 3, H, W) -> features (B, feature_dim).

    The classifier is replaced by the identity, so the state_dict lacks its two tensors and every
    other name is torchvision's. Any image from 64 pixels up will do, for a ResNet from 32.
    """
    if arch == "alexnet":
        return AlexNetBN()
    if arch == "vgg16":
        network = models.vgg16_bn(weights=None)
        network.classifier[6] = nn.Identity()
        return network
    if arch == "resnet50w2":
        network = ResNet50w2()
    else:
        network = getattr(models, arch.removesuffix("-l"))(weights=None)
    if arch.endswith("-l"):
        of_lightness(network)
    network.fc = nn.Identity()
    crop_kernels(network)
    return network


class LightnessConv(nn.Conv2d):
    """A first convolution of one channel, L - 50 of Lab, that takes normalised RGB like all others.

    So a network of lightness stands wherever one of colours does, gradients by the pixels included.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float32, normalised by ImageNet's mean and deviation."""
        rgb = denormalised(images.float())
        return super().forward(lab(rgb)[:, :1] - 50)


def of_lightness(network: ResNet) -> None:
    """Make a fresh ResNet see lightness alone and keep layer4 at stride 1, as the published
    colourisation networks (Goyal et al. 2019; VISSL's LAYER4_STRIDE).
    """
    network.conv1 = LightnessConv(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    for module in network.layer4[0].modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


class AlexNetBN(nn.Module):
    """torchvision's AlexNet (Krizhevsky 2014, one tower) with batch norm after each convolution.

    `features` is convolution, batch norm, ReLU five times, with max pooling after the first, the
    second and the last: 0 1 2 3 | 4 5 6 7 | 8 9 10 | 11 12 13 | 14 15 16 17. `classifier` has the
    indices of torchvision's AlexNet: 1 and 4 are its linear layers, 6 would be the last.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, kernel, stride, padding, pool in (
            (64, 11, 4, 2, True),
            (192, 5, 1, 2, True),
            (384, 3, 1, 1, False),
            (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        ):
            # no bias before batch norm, whose shift would swallow it
            layers.append(nn.Conv2d(channels, width, kernel, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if pool:
                layers.append(nn.MaxPool2d(3, 2))
            channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Identity(),
        )
        _initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 4096)."""
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


class ResNet50w2(ResNet):
    """ResNet-50 with every layer twice as wide, as MoCo's "R50w2x" (94 million parameters).

    torchvision's `wide_resnet50_2` doubles only the 3x3 convolutions inside the bottlenecks; here
    the stem, the bottlenecks and their outputs are doubled. Names as torchvision's `resnet50`.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        # the attributes that ResNet._make_layer and ResNet.forward rely on
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = 128, 1, 1, 64
        self.conv1 = nn.Conv2d(3, 128, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(Bottleneck, 128, 3)
        self.layer2 = self._make_layer(Bottleneck, 256, 4, stride=2)
        self.layer3 = self._make_layer(Bottleneck, 512, 6, stride=2)
        self.layer4 = self._make_layer(Bottleneck, 1024, 3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(1024 * Bottleneck.expansion, 1000)
        _initialise(self)


def _initialise(network: nn.Module) -> None:
    """He's initialisation of convolutions and torchvision's constants for batch norm."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

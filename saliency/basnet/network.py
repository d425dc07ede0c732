"""BASNet, the boundary-aware salient object detector of Qin et al. (CVPR 2019), and its weights.

The attribute names are those of the published checkpoint; a state_dict fits only with them.

References
----------
.. [1] X. Qin, Z. Zhang, C. Huang, C. Gao, M. Dehghan, M. Jagersand. "BASNet: Boundary-Aware
   Salient Object Detection". CVPR 2019.
"""

import os
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet34_Weights
from torchvision.models.resnet import BasicBlock

from data.errors import UserError
from data.weights import differences, fill, read_network


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


OUTPUTS = ("refined", "d1", "d2", "d3", "d4", "d5", "d6", "bridge")


class BASNet(ConvolutionStages):
    """A ResNet-34 encoder, a decoder with a side output at every level, and a refinement module.

    With ``width=1`` it has 87,060,360 parameters and exactly the keys and shapes of the published
    ``basnet.pth``.

    width : multiplies every number of channels, 1/64 or more; 1 is the published network. ``1 / 8``
        trains on a CPU.

    Any height and width from 32 up is accepted; the published network takes multiples of 32, for
    which the two agree.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c = round(64 * width)  # channels of the first stage, 64 as published
        self.inconv = nn.Conv2d(3, c, 3, padding=1)
        self.inbn = nn.BatchNorm2d(c)
        self.encoder1 = residual_stage(c, c, blocks=3, stride=1)
        self.encoder2 = residual_stage(c, 2 * c, blocks=4, stride=2)
        self.encoder3 = residual_stage(2 * c, 4 * c, blocks=6, stride=2)
        self.encoder4 = residual_stage(4 * c, 8 * c, blocks=3, stride=2)
        for level in (5, 6):
            for block in (1, 2, 3):
                self.add_module(f"resb{level}_{block}", BasicBlock(8 * c, 8 * c))

        for part in ("1", "m", "2"):
            self.add(f"bg_{part}", 8 * c, 8 * c, dilation=2)

        # level: channels in (the stage below and the encoder's skip), of the middle, out
        for level, inputs, middle, outputs in (
            (6, 16 * c, 8 * c, 8 * c),
            (5, 16 * c, 8 * c, 8 * c),
            (4, 16 * c, 8 * c, 4 * c),
            (3, 8 * c, 4 * c, 2 * c),
            (2, 4 * c, 2 * c, c),
            (1, 2 * c, c, c),
        ):
            dilation = 2 if level == 6 else 1
            self.add(f"{level}d_1", inputs, middle)
            self.add(f"{level}d_m", middle, middle, dilation)
            self.add(f"{level}d_2", middle, outputs, dilation)

        side_inputs = {"b": 8, "6": 8, "5": 8, "4": 4, "3": 2, "2": 1, "1": 1}
        for name, factor in side_inputs.items():
            self.add_module(f"outconv{name}", nn.Conv2d(factor * c, 1, 3, padding=1))
        self.refunet = Refinement(c)

    def logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """The eight outputs of `forward` before the sigmoid, float32, each (N, 1, H, W)."""
        # Encoder, for 256x256: h1 256, h2 128, h3 64, h4 32, h5 16, h6 8 pixels a side.
        h1 = self.encoder1(F.relu(self.inbn(self.inconv(x)), inplace=True))
        h2 = self.encoder2(h1)
        h3 = self.encoder3(h2)
        h4 = self.encoder4(h3)
        h5 = self.resb5_3(self.resb5_2(self.resb5_1(downsample(h4))))
        h6 = self.resb6_3(self.resb6_2(self.resb6_1(downsample(h5))))
        bridge = self.stage("bg", h6)

        side = {"b": self.outconvb(bridge)}
        decoded = bridge
        for level, skip in zip((6, 5, 4, 3, 2, 1), (h6, h5, h4, h3, h2, h1), strict=True):
            joined = torch.cat([resize(decoded, skip), skip], dim=1)
            decoded = self.stage(f"{level}d", joined)
            side[str(level)] = getattr(self, f"outconv{level}")(decoded)

        # Half precision would leave 8 bits of the sum; the maps are compared and stretched later.
        coarse = [resize(side[name].float(), x) for name in ("1", "2", "3", "4", "5", "6", "b")]
        return (self.refunet(coarse[0]).float(), *coarse)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return eight maps of probabilities, float32, each (N, 1, H, W).

        x : (N, 3, H, W), preprocessed by `saliency.basnet.predict.normalise`.

        They are the refined map, the decoder's from level 1 to 6, and the bridge's (`OUTPUTS`).
        Only the first is the prediction.
        """
        return tuple(torch.sigmoid(logits) for logits in self.logits(x))


def load_basnet(path: str | os.PathLike) -> BASNet:
    """Build the BASNet that a checkpoint holds, on the CPU, float32, in evaluation mode.

    The published ``basnet.pth`` and ``basnet_scratch.pth`` load as they are, and so does the
    ``best.pth`` of our training; the width is read off the first convolution. Every name must be
    there with its shape and no other.

    Raises UserError: no such file, no state_dict, or not BASNet's names and shapes, which it names.
    """
    state, _ = read_network(path, "--weights", ["inconv.weight"])
    first = state.get("inconv.weight")
    channels = first.shape[0] if first is not None and first.ndim == 4 else 0
    with torch.device("meta"):  # the shapes without the memory; a foreign file costs nothing
        network = BASNet(width=(channels or 64) / 64)
    if difference := differences(state, network.state_dict()):
        raise UserError(
            f"--weights {path} is not a BASNet checkpoint ({difference}); "
            "give basnet.pth as published or the best.pth of python -m saliency.basnet.train."
        )
    fill(network, state)
    return network.eval()


def load_encoder(network: BASNet, path: str | os.PathLike | None = None) -> None:
    """Copy `layer1` to `layer4` of a ResNet-34 into `encoder1` to `encoder4`, as published.

    network : of width 1.
    path : a state_dict with torchvision's names; None takes torchvision's ImageNet weights from its
        cache, or downloads them.

    Raises UserError: the download fails, or the file holds no ResNet-34.
    """
    source = (
        _download()
        if path is None
        else read_network(path, "--encoder-weights", ["conv1.weight"])[0]
    )
    own = network.state_dict()
    stages = {name: value for name, value in own.items() if name.startswith("encoder")}
    state = {
        name.replace("layer", "encoder"): value
        for name, value in source.items()
        if name.startswith("layer")
    }
    if difference := differences(state, stages):
        raise UserError(
            f"--encoder-weights {path} does not fit ({difference}); "
            "give torchvision's resnet34 and --width 1, or train with --from-scratch."
        )
    fill(network, own | state)


def _download() -> dict[str, Tensor]:
    url = ResNet34_Weights.IMAGENET1K_V1.url
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"ImageNet weights for the encoder cannot be fetched from {url} ({error}); "
            "give a copy with --encoder-weights FILE, or train with --from-scratch."
        ) from None

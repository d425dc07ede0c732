"""Convolutions down to one pixel, as in the last stage of a ResNet that sees 32 x 32 pixels.

Of a kernel of 3 x 3 only the middle meets a map of one pixel; all else multiplies padding, and its
gradient is zero. Libraries compute that, too, and on CPUs slowly: at 32 pixels it is half of a
ResNet-18's training step. `python -m benchmarks.small_maps` measures it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class CroppedConv2d(nn.Conv2d):
    """A convolution that, where its result is one pixel, leaves out the taps that see padding.

    The result and the gradients are those of `nn.Conv2d`, up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        sides = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        if any((n + 2 * p - k) // s for n, k, s, p in sides):
            return super().forward(x)
        (height, width), (top, left), kernel = x.shape[2:], self.padding, self.weight
        met = kernel[:, :, top : top + height, left : left + width]
        seen = x[:, :, : kernel.shape[2] - top, : kernel.shape[3] - left]
        return functional.linear(seen.flatten(1), met.flatten(1), self.bias)[:, :, None, None]


def crop_kernels(network: nn.Module) -> None:
    """Let the plain convolutions of a network be `CroppedConv2d`; names and values stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = CroppedConv2d


def _is_plain(module: nn.Conv2d) -> bool:
    kind = (module.groups, module.dilation, module.padding_mode)
    return kind == (1, (1, 1), "zeros") and not isinstance(module.padding, str)

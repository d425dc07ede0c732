"""Batch norm in groups: on one device what several would compute."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class _Grouped(nn.Module):
    """Batch norm whose statistics are taken over `groups` equal runs of the batch, each by itself.

    In training it equals `groups` devices with a share of the batch each (MoCo, He et al. 2020,
    3.3, where shuffling over such groups keeps the statistics from giving the positive away). The
    running statistics move to the mean over the groups. In eval mode it is the plain layer.
    """

    groups = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> the same; B must be a multiple of `groups`."""
        if not self.training or self.groups == 1:
            return super().forward(x)
        outputs, means, variances = [], [], []
        for part in x.chunk(self.groups):
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            outputs.append(
                functional.batch_norm(
                    part, mean, variance, self.weight, self.bias, True, self.momentum, self.eps
                )
            )
            means.append(mean)
            variances.append(variance)
        with torch.no_grad():
            self.running_mean.copy_(torch.stack(means).mean(0))
            self.running_var.copy_(torch.stack(variances).mean(0))
            self.num_batches_tracked += 1
        return torch.cat(outputs)


class GroupedBatchNorm1d(_Grouped, nn.BatchNorm1d):
    """Of a head: (B, C)."""


class GroupedBatchNorm2d(_Grouped, nn.BatchNorm2d):
    """Of a backbone: (B, C, H, W)."""


_GROUPED = {nn.BatchNorm1d: GroupedBatchNorm1d, nn.BatchNorm2d: GroupedBatchNorm2d}


def group_batch_norm(network: nn.Module, groups: int) -> nn.Module:
    """Turn every batch norm of a network, in place, into one over `groups` runs of the batch.

    Parameters, buffers and their names stay as they are. Returns the network.
    """
    for module in network.modules():
        if type(module) in _GROUPED:
            module.__class__ = _GROUPED[type(module)]
        if isinstance(module, _Grouped):
            module.groups = groups
    return network

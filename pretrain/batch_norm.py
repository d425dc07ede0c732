"""Batch norm in groups: on one device what several would compute."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics are taken over `groups` equal runs of the batch, each by itself.

    In training it equals `groups` devices with a share of the batch each (MoCo, He et al. 2020,
    3.3, where shuffling over such groups keeps the statistics from giving the positive away). The
    running statistics move to the mean over the groups. In eval mode it is BatchNorm2d.
    """

    groups = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same; B must be a multiple of `groups`."""
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


def group_batch_norm(network: nn.Module, groups: int) -> nn.Module:
    """Turn every BatchNorm2d of a network, in place, into one over `groups` runs of the batch.

    Parameters, buffers and their names stay as they are. Returns the network.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GroupedBatchNorm2d
        if isinstance(module, GroupedBatchNorm2d):
            module.groups = groups
    return network

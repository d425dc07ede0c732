"""Batch norms' statistics measured anew, over many batches, before a detector is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.parts.distributed import mean_over_processes


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> None:
    """Set running means and variances to the averages over the batches' own (Wu & Johnson 2021).

    With several processes, to the averages over all of theirs; nothing else of the model changes.

    forward : puts a batch through the model, in training mode
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before, training = [norm.momentum for norm in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
    model.train()
    for batch in batches:
        forward(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(mean_over_processes(statistic))
    model.train(training)

"""The encoder's head, and what its batch norm is for."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pretrain.parts.encoder import Encoder, EncoderSettings


@pytest.mark.parametrize(
    ("mlp", "head_norm", "layers"),
    [
        (False, False, [nn.Linear]),
        (True, False, [nn.Linear, nn.ReLU, nn.Linear]),
        (True, True, [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]),
    ],
)
def test_head_has_the_layers_asked_for(mlp, head_norm, layers):
    encoder = Encoder("resnet18", EncoderSettings(dim=16, mlp=mlp, head_norm=head_norm))
    assert [type(layer) for layer in encoder.head] == layers
    outputs = encoder(torch.randn(4, 3, 64, 64))
    assert outputs.shape == (4, 16)
    torch.testing.assert_close(outputs.norm(dim=1), torch.ones(4))


def test_norm_keeps_images_apart_from_random_negatives():
    """A few steps against random vectors, as a new queue holds, move all images to one point."""
    cosines = {}
    for head_norm in (False, True):
        torch.manual_seed(0)
        encoder = Encoder("resnet18", EncoderSettings(dim=32, mlp=True, head_norm=head_norm))
        optimizer = torch.optim.SGD(encoder.parameters(), 0.06, momentum=0.9)
        queue = functional.normalize(torch.randn(32, 256), dim=0)
        images = torch.randn(16, 3, 64, 64)
        for _ in range(6):
            q = encoder(images)
            positive = (q * q.detach()).sum(1, keepdim=True)
            logits = torch.cat([positive, q @ queue], 1) / 0.2
            loss = functional.cross_entropy(logits, torch.zeros(16, dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        q = encoder(images).detach()
        cosines[head_norm] = float((q @ q.T)[~torch.eye(16, dtype=torch.bool)].mean())
    assert cosines[False] > 0.98
    assert cosines[True] < 0.95

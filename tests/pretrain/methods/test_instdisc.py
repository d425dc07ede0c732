"""InstDisc's parts together."""

import math

import pytest
import torch
from torch import nn

from data.errors import UserError
from pretrain.contract import Views
from pretrain.methods.instdisc import InstDisc, InstDiscSettings
from pretrain.settings import build_settings

INDEX, ROWS = torch.tensor([3, 0]), torch.arange(2)


def views(x, index=INDEX):
    return Views([x], index, torch.arange(len(x)), torch.zeros(len(x), 1, 4))


class Pass(nn.Module):
    """An encoder that only normalises, (B, d) -> (B, d)."""

    def forward(self, x):
        return nn.functional.normalize(x, dim=1)


def build(images=10, seed=0, **options):
    return InstDisc(Pass(), images, InstDiscSettings(**{"dim": 4} | options), seed)


@pytest.mark.parametrize(
    "options", [{"negatives": "all"}, {"negatives": 5}, {"negatives": 5, "shared_negatives": True}]
)
def test_loss_is_the_cross_entropy_over_its_own_negatives(options):
    method = build(**options)
    x = torch.randn(2, 4, requires_grad=True)
    loss, _ = method(views(x), 17)
    f = nn.functional.normalize(x, dim=1).detach()
    negatives = torch.cat(list(method._negatives(17, ROWS)), -2)
    if options["negatives"] == "all":
        scores = f @ method.bank.vectors.T / 0.07
        expected = nn.functional.cross_entropy(scores, INDEX)
    else:
        l_pos = (f * method.bank.vectors[INDEX]).sum(1, keepdim=True)
        l_neg = torch.stack(
            [f[i] @ (negatives if negatives.dim() == 2 else negatives[i]).T for i in (0, 1)]
        )
        expected = nn.functional.cross_entropy(
            torch.cat([l_pos, l_neg], 1) / 0.07, torch.zeros(2, dtype=torch.long)
        )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert x.grad.abs().sum() > 0


def test_negatives_follow_from_seed_and_step():
    a, b = build(negatives=5, seed=4), build(negatives=5, seed=4)
    b.bank.load_state_dict(a.bank.state_dict())
    x = views(torch.randn(2, 4))
    assert a(x, 1)[0] == b(x, 1)[0]
    assert a(x, 1)[0] != b(x, 2)[0]


def test_nce_freezes_z_at_the_first_batch_and_saves_it():
    torch.manual_seed(0)
    method = build(negatives=6, loss="nce")
    first = torch.randn(2, 4)
    loss, _ = method(views(first), 0)
    f = nn.functional.normalize(first, dim=1)
    negatives = torch.cat(list(method._negatives(0, ROWS)), 1)
    scores = torch.cat(
        [
            (f * method.bank.vectors[INDEX]).sum(1)[:, None],
            torch.einsum("bd,bkd->bk", f, negatives),
        ],
        1,
    )
    p = (scores / 0.07).exp()
    z = 10 * p.mean()
    torch.testing.assert_close(method.log_z, z.log())
    p, c = p / z, 6 / 10
    expected = -(p[:, 0] / (p[:, 0] + c)).log() - (c / (p[:, 1:] + c)).log().sum(1)
    torch.testing.assert_close(loss, expected.mean())
    method.update()
    method(views(torch.randn(2, 4)), 1)
    torch.testing.assert_close(method.log_z, z.log())

    other = build(negatives=6, loss="nce", seed=9)
    other.load_state_dict(method.state_dict())
    other(views(torch.randn(2, 4)), 5)
    torch.testing.assert_close(other.log_z, z.log())


def test_accumulated_parts_have_the_z_of_the_whole_batch():
    torch.manual_seed(0)
    whole, parts = (build(negatives=6, loss="nce", seed=3) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    batch = views(torch.randn(2, 4))
    whole(batch, 0)
    for row in range(2):
        one = slice(row, row + 1)
        part = Views([batch.images[0][one]], *(x[one] for x in (INDEX, ROWS, batch.crops)))
        parts(part, 0)
    parts.update()
    torch.testing.assert_close(parts.log_z, whole.log_z)
    frozen = parts.log_z.clone()
    parts(views(torch.randn(2, 4)), 1)
    assert torch.equal(parts.log_z, frozen)


def test_update_moves_only_the_images_seen():
    method = build(negatives="all")
    before = method.bank.vectors.clone()
    x = torch.randn(2, 4)
    method(views(x), 0)
    f = nn.functional.normalize(x, dim=1)
    assert torch.equal(method.bank.vectors, before)  # not before the optimiser's step
    method.update()
    changed = (method.bank.vectors != before).any(1).nonzero().flatten()
    assert changed.tolist() == [0, 3]
    expected = nn.functional.normalize((before[INDEX] + f) / 2, dim=1)
    torch.testing.assert_close(method.bank.vectors[INDEX], expected)


def test_first_loss_is_near_chance():
    method = build(images=5000, dim=128)
    x = torch.randn(64, 128)
    loss, _ = method(views(x, torch.arange(64)), 0)
    # logits are about normal with deviation 1 / (.07 sqrt(128)): ln(K+1) + deviation^2 / 2
    assert loss.item() == pytest.approx(math.log(4097) + 0.5 / (0.07**2 * 128), abs=0.5)


def test_nce_needs_a_number():
    with pytest.raises(UserError, match="all"):
        build_settings({"negatives": "all", "loss": "nce"})

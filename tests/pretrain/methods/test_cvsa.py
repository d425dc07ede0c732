"""The alignment loss by hand, and what it learns on made-up pictures."""

import numpy as np
import pytest
import torch

from data.errors import UserError
from pretrain.build import build_optimizer, check_sizes
from pretrain.contract import Views
from pretrain.methods.cvsa import CVSA, alignment_losses, similarity_map
from pretrain.settings import build_settings
from pretrain.trainer import train
from tests.pretrain.mask_samples import write_masks
from tests.pretrain.runs import metrics, tiny


def settings(**changes):
    return build_settings(
        {"method": "cvsa", "arch": "resnet18", "negatives": 16, "batch_size": 16, "bn_groups": 1},
        changes,
    )


def build(s):
    torch.manual_seed(0)
    return CVSA.build(s, check_sizes(s, 1000, 1)).train()


def squares(count, size, seed):
    """Noise with a bright square, another place in each view; its mask is the truth."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.3, (2, count, 3, size, size)).astype(np.float32)
    masks = np.zeros((2, count, 1, size, size), np.float32)
    side = size // 2
    for image, mask in zip(
        images.reshape(-1, 3, size, size), masks.reshape(-1, size, size), strict=True
    ):
        top, left = rng.integers(0, 2, 2) * (size - side)
        image[:, top : top + side, left : left + side] += 2
        mask[top : top + side, left : left + side] = 1
    index = torch.arange(count)
    return Views(
        list(torch.from_numpy(images)), index, index, torch.zeros(count, 2, 4),
        saliency=list(torch.from_numpy(masks)),
    )  # fmt: skip


def test_the_loss_against_the_equations():
    """In NumPy: min-max of z . f, one minus the cosine with the mask; f the mask's sum of cells."""
    rng = np.random.default_rng(0)
    cells = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(3, 5, 4, 4))), dim=1)
    f = torch.from_numpy(rng.normal(size=(3, 5)))
    saliency = torch.from_numpy(rng.random((3, 4, 4)))
    losses = alignment_losses(similarity_map(cells, f), saliency)
    for z, vector, mask, loss in zip(
        cells.numpy(), f.numpy(), saliency.numpy(), losses, strict=True
    ):
        a = np.array([[z[:, y, x] @ vector for x in range(4)] for y in range(4)])
        a = (a - a.min()) / (a.max() - a.min() + 1e-6)
        cosine = (a * mask).sum() / np.sqrt((a**2).sum() * (mask**2).sum())
        assert float(loss) == pytest.approx(1 - cosine, abs=1e-9)


def test_a_saliency_of_one_everywhere_is_a_constant():
    similarity = torch.rand(2, 7, 7, dtype=torch.float64)
    losses = alignment_losses(similarity, torch.ones_like(similarity))
    length = similarity.square().sum((1, 2)).sqrt()
    torch.testing.assert_close(losses, 1 - similarity.sum((1, 2)) / (length * 7))


def test_no_gradient_reaches_the_other_views_vector():
    cells = torch.rand(2, 4, 3, 3, requires_grad=True)
    f = torch.rand(2, 4, requires_grad=True)
    alignment_losses(similarity_map(cells, f), torch.rand(2, 3, 3)).sum().backward()
    assert f.grad is None and cells.grad.abs().sum() > 0
    method = build(settings(image_size=64))
    loss, _ = method(squares(16, 64, 0), 0)
    loss.backward()
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    assert all(p.grad is None for p in method.encoder_k.parameters())


def test_views_without_an_object_add_nothing_and_are_counted():
    s = settings(image_size=64, alignment=3.0)
    views = squares(16, 64, 0)
    _, all_ = build(s)(views, 0)
    views.saliency[0][:4] = 0  # no object in the query
    views.saliency[1][2:8] = 0.5  # none in the key
    loss, logged = build(s)(views, 0)
    assert all_["aligned"] == 1 and logged["aligned"] == 0.5
    plain, _ = build(settings(image_size=64, alignment=0.0))(views, 0)
    torch.testing.assert_close(loss - plain, 3 * 0.5 * logged["alignment"], rtol=1e-4, atol=1e-5)


def test_made_up_objects_are_found():
    """On images that were not trained on: pointing above 95 %."""
    s = settings(image_size=64, lr=0.1, lr_batch="fixed")
    method = build(s)
    optimizer = build_optimizer(s, method)
    values = []
    for step in range(24):
        loss, logged = method(squares(16, 64, step), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.update()
        values.append(logged)
    with torch.no_grad():
        unseen = [method(squares(16, 64, 1000 + n), 0)[1]["pointing"] for n in range(2)]
    losses = [float(v["alignment"]) for v in values]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    assert np.mean(unseen) > 0.95


def test_masks_that_fill_the_picture_are_counted(photographs, tmp_path):
    rows = {key: (np.full((9, 9), 255, np.uint8), size) for key, size in photographs.sizes.items()}
    write_masks(tmp_path / "masks", rows)
    changes = {"masks": str(tmp_path / "masks"), "paste_probability": 1.0, "epochs": 1}
    assert train(tiny(photographs, method="cvsa", **changes), tmp_path / "run").done
    *steps, told = metrics(tmp_path / "run")
    assert len(steps) == 3 and all(line["aligned"] == 1 for line in steps)
    assert told == {"step": 3, "epoch": 0, "unmoved": 12}
    assert (tmp_path / "run" / "views.png").exists()


def test_refusals(photographs):
    with pytest.raises(UserError, match=r"vgg16.*choose one of resnet18, resnet50"):
        check_sizes(tiny(photographs, method="cvsa", arch="vgg16"), 12, 1)
    with pytest.raises(UserError, match=r"multiple of the batch"):
        check_sizes(tiny(photographs, method="cvsa", negatives=9), 12, 1)

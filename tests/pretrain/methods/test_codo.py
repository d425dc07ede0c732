"""CoDo-like by hand: boxes, levels, loss, queues."""

import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, normalize
from torchvision.ops import FeaturePyramidNetwork

from data.errors import UserError
from pretrain.build import check_sizes
from pretrain.contract import Views
from pretrain.methods.codo import CoDo, CoDoSettings, PyramidEncoder, boxes_of
from pretrain.parts.boxes import overlap
from pretrain.parts.pyramid import stage_maps
from pretrain.settings import build_settings

S = 32


class Small(nn.Module):
    """Two "levels": the box's mean colour and the view's, each through a layer of its own."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])

    def forward(self, images, boxes):
        size = images.shape[-1]
        inside = torch.zeros(len(images), 1, size, size)
        for number, (top, left, height, width) in enumerate(boxes.round().long().tolist()):
            inside[number, :, top : top + height, left : left + width] = 1
        means = [(images * inside).sum((2, 3)) / inside.sum((2, 3)), images.mean((2, 3))]
        points = [head(mean) for head, mean in zip(self.heads, means, strict=True)]
        return normalize(torch.stack(points, 1), dim=2)


def build(**options):
    torch.manual_seed(0)
    settings = CoDoSettings(name="codo", **{"dim": 4, "negatives": 6, "lowest_level": 4} | options)
    return CoDo(Small(), settings, seed=3)


def views(count=2, batch=2):
    images = [torch.rand(batch, 3, S, S) for _ in range(count)]
    alpha = [torch.zeros(batch, 1, S, S) for _ in range(count)]
    for number, plane in enumerate(alpha):
        plane[0, :, 4 + number : 20, 6:26] = 1.0
        plane[1, :, 10:20, 3 : 12 + number] = 0.6
    rows = torch.arange(batch)
    return Views(images, rows, rows, torch.zeros(batch, count, 4), alpha=alpha)


def info_nce(q, k, queue, temperature):
    scores = torch.stack([q @ k, *(q @ n for n in queue.T)]).double() / temperature
    return torch.logsumexp(scores, 0) - scores[0]


@pytest.mark.parametrize("queries", [1, 2])
def test_loss_against_the_equation(queries):
    method = build(queries=queries, box_shift=0.0, box_enlarge=0.0, temperature=0.3)
    x = views(1 + queries)
    loss, logged = method(x, 0)
    boxes = [torch.tensor([[4.0 + n, 6, 16 - n, 20], [10, 3, 10, 9 + n]]) for n in range(3)]
    k = method.encoder_k(x.images[1], boxes[1])
    asked = [method.encoder_q(x.images[0], boxes[0])]
    if queries == 2:
        half = nn.functional.interpolate(
            x.images[2], scale_factor=0.5, mode="bilinear", antialias=True
        )
        asked.append(method.encoder_q(half, boxes[2] / 2))
    levels = [
        sum(info_nce(q[i, n], k[i, n], method.queue[n], 0.3) for i in range(2) for q in asked) / 2
        for n in range(2)
    ]
    torch.testing.assert_close(loss.double(), sum(levels), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logged["level4"].double(), levels[0].detach(), rtol=1e-5, atol=0)
    assert float(logged["box_overlap"]) == 1.0
    loss.backward()
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    assert all(p.grad is None for p in method.encoder_k.parameters())
    method.update()
    assert method.queue_ptr == 2
    torch.testing.assert_close(method.queue[:, :, :2], k.permute(1, 2, 0))


def test_the_queries_box_takes_in_background_and_the_keys_does_not(monkeypatch):
    method, x = build(box_enlarge=0.3), views()
    seen = []
    forward = Small.forward
    monkeypatch.setattr(
        Small, "forward", lambda self, i, boxes: seen.append(boxes) or forward(self, i, boxes)
    )
    _, logged = method(x, 5)
    query, key = seen
    true = [boxes_of(alpha) for alpha in x.alpha]
    assert sorted(key.tolist()) == sorted(true[1].tolist())  # shuffled with the images
    assert not torch.equal(query, true[0]) and (overlap(query, true[0]) >= 0.5).all()
    torch.testing.assert_close(logged["box_overlap"], overlap(query, true[0]).mean())


def test_a_view_without_a_paste_is_its_own_box():
    whole = boxes_of(torch.cat([torch.ones(1, 1, S, S), torch.zeros(1, 1, S, S)]))
    assert whole.tolist() == [[0, 0, S, S]] * 2


def test_pyramid_is_the_equation():
    """Against a plain construction: 1 x 1 and 3 x 3 convolutions, nearest doubling, sums."""
    torch.manual_seed(0)
    encoder = PyramidEncoder("resnet18", CoDoSettings(dim=8, lowest_level=4)).eval()
    body, fpn = encoder.backbone, encoder.fpn
    assert isinstance(fpn, FeaturePyramidNetwork)
    images, boxes = torch.randn(2, 3, 64, 64), torch.tensor([[0.0, 0, 64, 64], [16, 8, 32, 40]])
    with torch.no_grad():
        x = body.maxpool(body.bn1(body.conv1(images)).relu())
        c3 = body.layer2(body.layer1(x))
        c4 = body.layer3(c3)
        c5 = body.layer4(c4)
        p5 = fpn.inner_blocks[3](c5)
        p4 = fpn.inner_blocks[2](c4) + p5.repeat_interleave(2, 2).repeat_interleave(2, 3)
        p4, p5 = fpn.layer_blocks[2](p4), fpn.layer_blocks[3](p5)
        points = encoder(images, boxes)
        assert points.shape == (2, 2, 8)
        torch.testing.assert_close(points.norm(dim=2), torch.ones(2, 2))
        # Image 0's box is the whole: 7 x 7 cells of a 4 x 4 map, averages of bilinear samples.
        rois = _cells(p4[0]), _cells(p5[0])
        for level, cells in enumerate(rois):
            wanted = normalize(encoder.head(encoder.box_head(cells[None])), dim=1)[0]
            torch.testing.assert_close(points[0, level], wanted, atol=1e-4, rtol=1e-4)


def test_head_norm_is_after_the_linear_layer():
    torch.manual_seed(0)
    encoder = PyramidEncoder("resnet18", CoDoSettings(dim=8, lowest_level=5, head_norm=True))
    cuts = torch.rand(6, 256, 7, 7)
    linear = nn.Sequential(*list(encoder.box_head)[:6])(cuts)
    wanted = (linear - linear.mean(0)) / (linear.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(encoder.box_head(cuts), wanted.relu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lowest", [2, 3, 4, 5])
def test_levels_are_those_of_torchvisions_pyramid(lowest):
    encoder = PyramidEncoder("resnet18", CoDoSettings(dim=8, lowest_level=lowest)).eval()
    images = torch.randn(2, 3, 96, 80)
    with torch.no_grad():
        wanted = encoder.fpn(stage_maps(encoder.backbone, images))
        levels = encoder.maps(images)
    assert len(levels) == 6 - lowest
    for number, level in enumerate(levels, start=lowest - 2):
        torch.testing.assert_close(level, wanted[str(number)], rtol=0, atol=0)


def _cells(level):
    """RoIAlign of the whole map, 7 x 7, by its definition: bilinear samples at cells' centres."""
    side = level.shape[-1]
    samples = max(1, -(-side // 7))  # a cell's samples a side, adaptive
    at = (torch.arange(7 * samples) + 0.5) * side / (7 * samples) - 0.5
    at = at.clamp(0, side - 1)
    low = at.floor().long()
    high, share = (low + 1).clamp(max=side - 1), at - low
    rows = level[:, low] * (1 - share)[:, None] + level[:, high] * share[:, None]
    values = rows[:, :, low] * (1 - share) + rows[:, :, high] * share
    return adaptive_avg_pool2d(values, 7)


def test_levels_that_are_not_contrasted_do_not_learn():
    encoder = PyramidEncoder("resnet18", CoDoSettings(dim=8, lowest_level=5))
    encoder(torch.randn(2, 3, 64, 64), torch.tensor([[0.0, 0, 64, 64]] * 2)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(p.requires_grad for p in encoder.fpn.inner_blocks[:3].parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "vgg16"}, "no pyramid"),
        ({"image_size": 31}, "give 32 or more"),
        ({"image_size": 63, "queries": 2}, "give 64 or more"),
        ({"negatives": 10}, "codo's queue must be a multiple"),
        ({"lowest_level": 6}, "lowest_level"),
    ],
)
def test_bad_settings(changes, words):
    given = {"method": "codo", "arch": "resnet18", "image_size": 64, "batch_size": 4}
    with pytest.raises(UserError, match=words):
        check_sizes(build_settings(given | {"negatives": 8} | changes), 12, 1)

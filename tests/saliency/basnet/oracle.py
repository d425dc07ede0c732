"""BASNet's published layout as plain function calls on a state_dict, apart from our class."""

import torch
import torch.nn.functional as F


def conv(weights, name, x, stride=1, dilation=1):
    kernel = weights[f"{name}.weight"]
    padding = dilation * (kernel.shape[-1] // 2)
    return F.conv2d(x, kernel, weights.get(f"{name}.bias"), stride, padding, dilation)


def norm(weights, name, x):
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    column = (1, -1, 1, 1)
    x = (x - mean.view(column)) / torch.sqrt(variance.view(column) + 1e-5)
    return x * scale.view(column) + shift.view(column)


def block(weights, name, x, stride=1):
    y = F.relu(norm(weights, f"{name}.bn1", conv(weights, f"{name}.conv1", x, stride)))
    y = norm(weights, f"{name}.bn2", conv(weights, f"{name}.conv2", y))
    if f"{name}.downsample.0.weight" in weights:
        x = norm(weights, f"{name}.downsample.1", conv(weights, f"{name}.downsample.0", x, stride))
    return F.relu(y + x)


def up(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def basnet(weights, x):
    """The eight published outputs for a batch whose sides are multiples of 32."""

    def relu_layer(number, x, dilation=1, prefix=""):
        y = conv(weights, f"{prefix}conv{number}", x, dilation=dilation)
        return F.relu(norm(weights, f"{prefix}bn{number}", y))

    h = F.relu(norm(weights, "inbn", conv(weights, "inconv", x)))
    skips = {}
    for stage, (blocks, stride) in enumerate([(3, 1), (4, 2), (6, 2), (3, 2)], start=1):
        for i in range(blocks):
            h = block(weights, f"encoder{stage}.{i}", h, stride if i == 0 else 1)
        skips[stage] = h
    for stage in (5, 6):
        h = F.max_pool2d(h, 2, 2, ceil_mode=True)
        for i in (1, 2, 3):
            h = block(weights, f"resb{stage}_{i}", h)
        skips[stage] = h

    for part in ("1", "m", "2"):
        h = relu_layer(f"bg_{part}", h, dilation=2)
    sides = [up(conv(weights, "outconvb", h), 32)]
    for stage, factor in zip((6, 5, 4, 3, 2, 1), (32, 16, 8, 4, 2, 1), strict=True):
        below = h if stage == 6 else up(h, 2)
        h = relu_layer(f"{stage}d_1", torch.cat((below, skips[stage]), 1))
        h = relu_layer(f"{stage}d_m", h, dilation=2 if stage == 6 else 1)
        h = relu_layer(f"{stage}d_2", h, dilation=2 if stage == 6 else 1)
        side = conv(weights, f"outconv{stage}", h)
        sides.insert(0, side if factor == 1 else up(side, factor))

    d1 = sides[0]
    r = conv(weights, "refunet.conv0", d1)
    kept = []
    for level in (1, 2, 3, 4):
        r = relu_layer(level, r, prefix="refunet.")
        kept.append(r)
        r = F.max_pool2d(r, 2, 2, ceil_mode=True)
    r = relu_layer(5, r, prefix="refunet.")
    for level in (4, 3, 2, 1):
        r = relu_layer(f"_d{level}", torch.cat((up(r, 2), kept[level - 1]), 1), prefix="refunet.")
    refined = d1 + conv(weights, "refunet.conv_d0", r)
    return [torch.sigmoid(output) for output in (refined, *sides)]


def random_state_dict(layout, seed=0):
    """Weights under which activations neither die nor explode: every test of equality bites."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in layout.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif len(shape) == 4:
            fan_in = shape[1] * shape[2] * shape[3]
            weights[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape, generator=generator) + 0.5
        elif ".weight" in name:  # batch norm's scale
            weights[name] = torch.rand(shape, generator=generator) * 0.5 + 0.5
        else:
            weights[name] = torch.randn(shape, generator=generator) * 0.1
    return weights

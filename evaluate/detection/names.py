"""A backbone's tensors, and a pyramid's where one was trained, under the names of detectors."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping

from torch import Tensor

from pretrain.parts.pyramid import BOX_HEAD, FPN

BODY = "backbone.body."
_COUNTER = "num_batches_tracked"  # of batch norms; detectron2's weights have none

# torchvision -> detectron2, without the beginning that tells C4 from FPN: it matches by endings
_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm."),
    (r"^layer(\d)\.(\d+)\.conv(\d)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}."),
    (r"^layer(\d)\.(\d+)\.bn(\d)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm."),
    (re.escape(FPN) + r"inner_blocks\.(\d)\.0\.", lambda m: f"fpn_lateral{int(m[1]) + 2}."),
    (re.escape(FPN) + r"inner_blocks\.(\d)\.1\.", lambda m: f"fpn_lateral{int(m[1]) + 2}.norm."),
    (re.escape(FPN) + r"layer_blocks\.(\d)\.0\.", lambda m: f"fpn_output{int(m[1]) + 2}."),
    (re.escape(FPN) + r"layer_blocks\.(\d)\.1\.", lambda m: f"fpn_output{int(m[1]) + 2}.norm."),
    (re.escape(BOX_HEAD) + r"(\d)\.0\.", lambda m: f"box_head.conv{int(m[1]) + 1}."),
    (re.escape(BOX_HEAD) + r"(\d)\.1\.", lambda m: f"box_head.conv{int(m[1]) + 1}.norm."),
)


def for_torchvision(
    body: Mapping[str, Tensor], detector: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state_dict of a part of torchvision's detectors with a pyramid.

    body : a ResNet's; detector : `pretrain.parts.pyramid.state`, or nothing
    """
    return {BODY + name: value for name, value in body.items()} | dict(detector)


def for_detectron2(body: Mapping[str, Tensor], detector: Mapping[str, Tensor]) -> bytes:
    """Return a file that detectron2 loads into its C4 and FPN models; arguments as above.

    It is what MoCo's converter writes: a pickle of NumPy arrays, which detectron2 assigns to
    parameters by the endings of their names.
    """
    model = {
        detectron2_name(name): value.numpy()
        for name, value in {**body, **detector}.items()
        if not name.endswith(_COUNTER)
    }
    content = {"model": model, "__author__": "DiLo", "matching_heuristics": True}
    return pickle.dumps(content, protocol=4)


def detectron2_name(name: str) -> str:
    """Return detectron2's name of a parameter of torchvision's ResNets, pyramid and box head."""
    for pattern, replacement in _DETECTRON2:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    raise ValueError(f"detectron2 has no {name}")

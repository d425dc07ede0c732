"""In what a run computes, and what is said of it."""

import pytest
import torch

from data.device import has_bfloat16
from pretrain import build
from pretrain.build import check_sizes, in_bfloat16, introduction
from pretrain.parts.distributed import World
from pretrain.settings import build_settings

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")
HERE = World(0, 1, 0, 1, CPU)


def said(precision):
    settings = build_settings(
        {"precision": precision, "batch_size": 8, "method": "instdisc", "negatives": 4}
    )
    sizes = check_sizes(settings, 16, 1)
    loader = type("Loader", (), {"masks": None, "__len__": lambda self: 2})()
    return "\n".join(introduction(settings, sizes, HERE, loader, 0, 0))


@pytest.mark.parametrize("computed", [True, False])
def test_native_is_bfloat16_only_where_it_is_computed(monkeypatch, computed):
    monkeypatch.setattr(build, "has_bfloat16", lambda device: computed)
    native = build_settings({"precision": "native"})
    assert in_bfloat16(native, CPU) == in_bfloat16(native, GPU) == computed
    assert ("(bfloat16)" if computed else "(float32)") in said("native")


def test_bfloat16_that_is_emulated_is_told(monkeypatch):
    monkeypatch.setattr(build, "has_bfloat16", lambda device: False)
    assert "emulates bfloat16" in said("bfloat16") and "native" in said("bfloat16")
    assert "emulates" not in said("float32") and "emulates" not in said("native")
    monkeypatch.setattr(build, "has_bfloat16", lambda device: True)
    assert "emulates" not in said("bfloat16")


def test_who_computes_in_bfloat16(monkeypatch):
    """Older GPUs say that they support what they only emulate; so do CPUs, by computing it."""
    capabilities = {0: (9, 0), 1: (7, 5)}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: capabilities[d.index])
    assert has_bfloat16(torch.device("cuda:0")) and not has_bfloat16(torch.device("cuda:1"))
    assert not has_bfloat16(torch.device("mps"))
    assert isinstance(has_bfloat16(CPU), bool)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bfloat16(CPU)

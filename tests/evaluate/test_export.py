"""`probe export`: torchvision's names, nothing overwritten, nothing half-written."""

import pytest
import safetensors.torch
import torch
import torchvision


def test_pt_and_safetensors_load_into_torchvision(tmp_path, probe, resnet18_file):
    state = torch.load(resnet18_file, weights_only=True)
    moco = {f"module.encoder_q.{key}": value for key, value in state.items()}
    torch.save({"state_dict": moco}, tmp_path / "moco.pth")
    for name, load in {
        "out.pt": lambda path: torch.load(path, weights_only=True),
        "out.safetensors": safetensors.torch.load_file,
    }.items():
        result = probe("export", tmp_path / "moco.pth", tmp_path / name)
        assert "all but fc" in result.stdout
        assert "'module.encoder_q.' stripped" in result.stderr
        weights = load(tmp_path / name)
        outcome = torchvision.models.resnet18().load_state_dict(weights, strict=False)
        assert set(outcome.missing_keys) == {"fc.weight", "fc.bias"}
        assert not outcome.unexpected_keys
        assert all(torch.equal(weights[key], state[key]) for key in weights)
        probe("export", tmp_path / "moco.pth", tmp_path / name)  # the same again does no harm
        refused = probe("export", "random:resnet18", tmp_path / name, code=2)
        assert f"{name} exists; name another file" in refused.stderr
        probe("export", tmp_path / "moco.pth", tmp_path / name, "--overwrite")
    assert not list(tmp_path.glob(".out*"))


def test_export_can_be_probed_again(tmp_path, probe, resnet18_file):
    probe("export", resnet18_file, tmp_path / "a.safetensors")
    probe("export", tmp_path / "a.safetensors", tmp_path / "b.pt")
    state = torch.load(resnet18_file, weights_only=True)
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert all(torch.equal(again[key], state[key]) for key in again)


def test_mistakes(tmp_path, probe, resnet18_file):
    assert "must end in" in probe("export", resnet18_file, tmp_path / "out.onnx", code=2).stderr
    result = probe("export", tmp_path / "no.pt", tmp_path / "out.pt", code=2)
    assert "does not exist" in result.stderr


def test_a_folder_that_cannot_be_written_to(probe, resnet18_file):
    for suffix in (".pt", ".safetensors"):
        result = probe("export", resnet18_file, f"/proc/out{suffix}", code=2)
        assert f"'/proc/out{suffix}' cannot be used" in result.stderr


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_timm_loads_it_and_sees_the_same(tmp_path, probe, resnet18_file, ending):
    timm = pytest.importorskip("timm")
    out = tmp_path / f"out.{ending}"
    told = probe("export", resnet18_file, out, "--for", "timm").stdout.splitlines()[-1]
    assert told == f"timm.create_model('resnet18', num_classes=0, checkpoint_path={str(out)!r})"
    model = eval(told, {"timm": timm}).eval()
    ours = torchvision.models.resnet18()
    ours.load_state_dict(torch.load(resnet18_file, weights_only=True), strict=False)
    ours.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), ours.eval()(x))


def test_timm_has_no_network_of_our_own(tmp_path, probe):
    for name in ("random:resnet18-l", "random:alexnet"):
        refused = probe("export", name, tmp_path / "out.pt", "--for", "timm", code=2)
        assert "--for timm: CHECKPOINT" in refused.stderr

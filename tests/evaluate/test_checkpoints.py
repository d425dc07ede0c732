"""Checkpoints: what is read, what is stripped, and one sentence for what is not a backbone."""

import json

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from data.errors import UserError
from evaluate import networks
from evaluate.checkpoints import digest, load_checkpoint


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18()


def same_backbone(model: nn.Module, reference: nn.Module) -> bool:
    theirs = reference.state_dict()
    ours = model.state_dict()
    expected = {k for k in theirs if not k.startswith("fc.")}
    return ours.keys() == expected and all(torch.equal(ours[k], theirs[k]) for k in expected)


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        ("", None),
        ("module.", "state_dict"),
        ("module.encoder_q.", "state_dict"),
        ("backbone.", "model"),
        ("student.module.backbone.", None),
    ],
)
def test_prefixes_are_stripped_and_named(tmp_path, resnet, prefix, wrapper):
    state = {prefix + key: value for key, value in resnet.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({wrapper: state, "epoch": 3, "arch": "resnet50"} if wrapper else state, path)
    loaded = load_checkpoint(path)
    assert same_backbone(loaded.model, resnet)
    assert loaded.source.stripped_prefix == prefix
    assert loaded.source.arch == "resnet18"
    assert {key.split(".")[0] for key in loaded.source.left_out} == {"fc"}
    assert f"'{prefix}'" in loaded.source.describe() or not prefix


def test_moco_file_gives_the_query_encoder(tmp_path, resnet):
    other = torchvision.models.resnet18()
    state = {f"module.encoder_q.{k}": v for k, v in resnet.state_dict().items()}
    state |= {f"module.encoder_k.{k}": v for k, v in other.state_dict().items()}
    # a version 2 head, and the queue
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(512, 512), "module.queue": torch.zeros(9)}
    torch.save({"state_dict": state}, tmp_path / "moco.pth.tar")
    loaded = load_checkpoint(tmp_path / "moco.pth.tar")
    assert same_backbone(loaded.model, resnet)
    assert "fc.0.weight" in loaded.source.left_out


def of_vissl(state):
    """As VISSL saves it: the trunk, beside heads."""
    trunk = {f"_feature_blocks.{key}": v for key, v in state.items() if not key.startswith("fc.")}
    heads = {"0.clf.0.weight": torch.zeros(4, 512), "0.clf.0.bias": torch.zeros(4)}
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}


def of_vissl_converted(state):
    """As its model zoo has Goyal et al.'s, from Caffe2: no counters of batches."""
    named = {f"_feature_blocks.{k}": v for k, v in state.items() if "num_batches" not in k}
    return {"model_state_dict": {k: v for k, v in named.items() if ".fc." not in k}}


def of_mmselfsup(state):
    """As MMSelfSup saves it: {meta, state_dict, optimizer}."""
    named = {f"backbone.{key}": v for key, v in state.items() if not key.startswith("fc.")}
    named |= {"head.fc_cls.weight": torch.zeros(4, 512), "head.fc_cls.bias": torch.zeros(4)}
    return {"meta": {"epoch": 70}, "state_dict": named, "optimizer": {"state": {}}}


@pytest.mark.parametrize("layout", [of_vissl, of_vissl_converted, of_mmselfsup])
@pytest.mark.parametrize("arch", ["resnet18", "resnet18-l"])
def test_published_layouts_of_rotation_and_colourisation(tmp_path, layout, arch):
    network = networks.build(arch)
    torch.save(layout(network.state_dict()), tmp_path / "published.torch")
    loaded = load_checkpoint(tmp_path / "published.torch").source
    assert loaded.arch == arch
    assert loaded.stripped_prefix in ("_feature_blocks.", "backbone.")
    assert same_backbone(load_checkpoint(tmp_path / "published.torch").model, network)


def test_state_of_pytorch_0_4_without_batch_counters_loads(tmp_path, resnet):
    state = {k: v for k, v in resnet.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    assert load_checkpoint(tmp_path / "old.pth").source.arch == "resnet18"


def test_own_checkpoint_and_run_folder(tmp_path, resnet):
    state = {k: v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
    content = {"format": "dilo-backbone", "arch": "resnet18", "state_dict": state}
    torch.save({**content, "config": json.dumps({"image_size": 64})}, tmp_path / "backbone.pt")
    for checkpoint in (tmp_path, tmp_path / "backbone.pt"):
        loaded = load_checkpoint(checkpoint)
        assert same_backbone(loaded.model, resnet)
        assert loaded.source.config == {"image_size": 64}
        assert len(loaded.source.sha256) == 64


def test_unfinished_run_gives_its_newest_checkpoint(tmp_path, resnet):
    run = tmp_path / "checkpoints"
    run.mkdir()
    for step, shift in ((10, 1.0), (20, 0.0)):
        state = {
            f"encoder.backbone.{key}": value + shift if key == "conv1.weight" else value
            for key, value in resnet.state_dict().items()
            if not key.startswith("fc.")
        }
        state["encoder.head.0.weight"] = torch.zeros(128, 512)
        content = {"step": step, "method": state, "optimizer": {"state": {}}}
        torch.save(content, run / f"checkpoint-{step:08d}.pt")
    loaded = load_checkpoint(tmp_path)
    assert same_backbone(loaded.model, resnet)
    assert loaded.source.stripped_prefix == "encoder.backbone."


def test_own_alexnet_is_the_one_with_batch_norm(tmp_path):
    state = networks.build("alexnet_bn").state_dict()
    content = {"format": "dilo-backbone", "arch": "alexnet", "state_dict": state, "config": "{}"}
    torch.save(content, tmp_path / "backbone.pt")
    assert load_checkpoint(tmp_path).source.arch == "alexnet_bn"


def test_safetensors(tmp_path, resnet):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(resnet.state_dict(), path)
    assert same_backbone(load_checkpoint(path).model, resnet)


@pytest.mark.parametrize("arch", ["resnet50", "alexnet", "vgg11_bn", "resnet50w2", "resnet50-l"])
def test_architectures_are_told_apart(arch):
    with torch.device("meta"):
        assert networks.recognise(networks.build(arch).state_dict(), "it") == arch


def test_named_architecture_that_keys_do_not_tell(tmp_path):
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), tmp_path / "m.pt")
    with pytest.raises(UserError, match="--arch"):
        load_checkpoint(tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt", arch="mobilenet_v3_small")
    assert loaded.source.left_out == ["classifier.3.weight", "classifier.3.bias"]


@pytest.mark.parametrize("arch", ["regnet_y_400mf", "densenet121"])
def test_networks_whose_first_names_or_shapes_are_unlike_a_resnets(tmp_path, arch):
    network = torchvision.models.get_model(arch)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt", arch=arch)
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())


def test_a_random_network_follows_from_its_seed():
    digests = [
        digest(load_checkpoint(f"random:resnet18{seed}").model) for seed in ("", "#0", "#1", "#1")
    ]
    assert digests[0] == digests[1] != digests[2] == digests[3]


class TouchFile:
    """Unpickling this writes a file: what a malicious checkpoint would do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(tmp_path):
    torch.save({"state_dict": TouchFile(tmp_path / "touched")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="could run code"):
        load_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "touched").exists()


def test_whole_pickled_module_is_refused(tmp_path, resnet):
    torch.save(resnet, tmp_path / "module.pt")
    with pytest.raises(UserError, match=r"torch.save\(model.state_dict\(\), FILE\)"):
        load_checkpoint(tmp_path / "module.pt")


def test_other_mistakes_are_one_sentence(tmp_path, resnet):
    def save(name, content):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = save("whole.pt", resnet.state_dict())
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:10000])
    missing = {k: v for k, v in resnet.state_dict().items() if not k.startswith("layer4.1")}
    wide = resnet.state_dict() | {"conv1.weight": torch.zeros(128, 3, 7, 7)}
    (tmp_path / "folder").mkdir()
    cases = {
        "does not exist": tmp_path / "nowhere.pt",
        "not a file that torch.save wrote": tmp_path / "empty.pt",
        "without backbone.pt": tmp_path / "folder",
        "of epoch, not a state_dict": save("numbers.pt", {"epoch": 3}),
        "holds a list, not a state_dict": save("list.pt", [1, 2]),
        "layer4.1.conv1.weight": save("missing.pt", missing),
        r"1 misshapen: conv1.weight \(128, 3, 7, 7\) for": save("wide.pt", wide),
        "no such network": "torchvision:resnet17",
        "there is no network 'resnet17'": "random:resnet17",
        "'-1' is no seed; write random:resnet18#1": "random:resnet18#-1",
    }
    for sentence, checkpoint in cases.items():
        with pytest.raises(UserError, match=sentence) as caught:
            load_checkpoint(checkpoint)
        assert "\n" not in caught.value.message
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("text.pt", "cut.pt", "text.safetensors"):
        with pytest.raises(UserError, match=f"{name}' (is not|cannot be read)"):
            load_checkpoint(tmp_path / name)


def test_file_of_an_old_pytorch_loads(tmp_path, resnet):
    path = tmp_path / "old.pth"
    torch.save(resnet.state_dict(), path, _use_new_zipfile_serialization=False)
    assert same_backbone(load_checkpoint(path).model, resnet)


def test_wrong_architecture_names_its_first_missing_keys(tmp_path, resnet):
    torch.save(resnet.state_dict(), tmp_path / "r18.pt")
    with pytest.raises(UserError, match=r"layer1.0.conv3.weight"):
        load_checkpoint(tmp_path / "r18.pt", arch="resnet50")


def test_torchvision_weights_are_looked_for_and_never_downloaded(tmp_path, monkeypatch, resnet):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=str(tmp_path / "checkpoints")):
        load_checkpoint("torchvision:resnet18")
    (tmp_path / "checkpoints").mkdir()
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    torch.save(resnet.state_dict(), tmp_path / "checkpoints" / name)
    loaded = load_checkpoint("torchvision:resnet18")
    assert same_backbone(loaded.model, resnet)
    assert loaded.source.file.endswith(name)


def test_digest_sees_every_tensor(resnet):
    before = digest(resnet)
    resnet.bn1.running_mean[3] += 1e-7
    assert digest(resnet) != before


def test_weights_that_are_not_finite_are_refused(tmp_path, resnet):
    state = resnet.state_dict()
    state["layer3.0.conv1.weight"] = torch.full_like(state["layer3.0.conv1.weight"], torch.nan)
    torch.save(state, tmp_path / "diverged.pt")
    with pytest.raises(UserError, match=r"layer3.0.conv1.weight .* not finite"):
        load_checkpoint(tmp_path / "diverged.pt")


def test_checkpoint_of_an_unfinished_run_knows_the_runs_settings(tmp_path, resnet):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.toml").write_text("image_size = 48\n")
    state = {f"encoder.backbone.{key}": value for key, value in resnet.state_dict().items()}
    path = tmp_path / "checkpoints" / "checkpoint-00000010.pt"
    torch.save({"step": 10, "method": state}, path)
    for checkpoint in (tmp_path, path):
        assert load_checkpoint(checkpoint).source.trained_size == 48


def test_a_damaged_newest_checkpoint_is_skipped(tmp_path, resnet, capsys):
    run = tmp_path / "checkpoints"
    run.mkdir()
    for step in (10, 20):
        torch.save(resnet.state_dict(), run / f"checkpoint-{step:08d}.pt")
    (run / "checkpoint-00000020.pt").write_bytes(b"PK")
    assert load_checkpoint(tmp_path).source.file == str(run / "checkpoint-00000010.pt")
    assert "checkpoint-00000020.pt is skipped" in capsys.readouterr().err
    (run / "checkpoint-00000010.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match="none of its checkpoints is sound"):
        load_checkpoint(tmp_path)

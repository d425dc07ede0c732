"""Archives of torch.export: run as PyTorch runs them, and never unpickled."""

import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torchvision.ops import deform_conv2d

from data.errors import UserError
from data.masks.read import MaskShards
from saliency.cli import main
from saliency.methods.exported import Program

OPTIONS = ("--method", "exported", "--device", "cpu", "--jobs", 1, "--max-failures", 1)


class Net(nn.Module):
    """Layers, views and arithmetic of sizes as segmentation networks have them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 1, 1)
        self.register_buffer("grid", torch.linspace(0, 1, 4).view(1, 4, 1, 1), persistent=False)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        y = nn.functional.gelu(self.norm(self.first(x)), approximate="tanh")
        a, b = torch.split(y * self.grid, 2, 1)
        low = nn.functional.max_pool2d(torch.cat([b, a], 1), 2)
        tokens = low.flatten(2).transpose(1, 2)
        low = tokens.softmax(-1).transpose(1, 2).reshape(x.shape[0], 4, x.shape[2] // 2, -1)
        high = nn.functional.interpolate(low, x.shape[-2:], mode="bilinear", align_corners=False)
        offset = torch.zeros(x.shape[0], 2, *x.shape[-2:], device=x.device) + 0.25
        high = high + deform_conv2d(y, offset, self.last.weight.expand(4, 4, 1, 1))
        return self.last(low), {"map": 4 * self.last(high)}


def export(path, network, x, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network.eval(), (x,), **how), path)
    return path


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "u2net.pt2"
    return export(path, Net(), torch.zeros(2, 3, 32, 48))


def test_outputs_are_pytorch_s_own(fixed, tmp_path):
    program = Program(fixed, torch.device("cpu"), "it")
    assert program.shape == [2, 3, 32, 48]
    x = torch.randn(2, 3, 32, 48)
    low, high = Net().eval()(x)
    for mine, theirs in zip(program(x), (low, high["map"]), strict=True):
        torch.testing.assert_close(mine, theirs)
    size = torch.export.Dim("half", min=8, max=64)
    shapes = ({0: torch.export.Dim("n"), 2: 2 * size, 3: torch.export.Dim.AUTO},)
    path = tmp_path / "any.pt2"
    export(path, Net(), torch.zeros(2, 3, 32, 48), dynamic_shapes=shapes)
    program = Program(path, torch.device("cpu"), "it")
    assert program.shape == [None, 3, None, None]
    x = torch.randn(3, 3, 40, 32)
    torch.testing.assert_close(program(x)[1], Net().eval()(x)[1]["map"])


def compute(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in (*arguments, *OPTIONS)])


def test_masks_are_made_and_resumed(photographs, fixed, tmp_path):
    out, how = tmp_path / "out", ("--weights", fixed, "--shard-size", 3)
    for part in ("1/2", "2/2"):
        done = compute(photographs, out, *how, "--part", part)
        assert done.exit_code == 0, done.output
    shards = MaskShards(out)
    assert shards.method == "exported" and shards.parameters["input_size"] == [32, 48]
    mask = shards.read("a/disc-3.png")
    assert np.ptp(mask) > 200
    (out / "shard-00001.h5").unlink()
    assert "2 shards were there already" in compute(photographs, out, *how).output
    np.testing.assert_array_equal(MaskShards(out).read("a/disc-3.png"), mask)


def changed(source, path, change=lambda program: None, compression=0, **parts):
    """Copy an archive with another program, or other parts by the ends of their names."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(data)
                change(program["graph_module"]["graph"]["nodes"])
                data = json.dumps(program).encode()
            for end, other in parts.items():
                data = other(data) if name.endswith(end + ".json") else data
            new.writestr(name, data)
    return path


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_nothing_in_an_archive_is_run_but_operators_on_tensors(photographs, fixed, tmp_path):
    def told(path):
        done = compute(photographs, tmp_path / "out", "--weights", path)
        assert done.exit_code == 2 and "Traceback" not in done.output, done.output
        return done.output

    def call(target, *arguments):
        inputs = [{"name": "", "arg": {"as_string": a}, "kind": 1} for a in arguments]
        return lambda nodes: nodes.insert(
            0, {"target": target, "inputs": inputs, "outputs": [], "metadata": {}}
        )

    mark = tmp_path / "mark"
    for target, *words in (
        ("torch.os.system", f"touch {mark}"),
        ("torch.ops.aten.from_file.default", str(mark)),
        ("torch.ops.aten.__class__.mro",),
        ("torch.ops.prim.Print.default", "x"),
        ("_operator.attrgetter", "x"),
        ("torch.ops.aten.relu.default", str(mark)),
    ):
        output = told(changed(fixed, tmp_path / "u2net-bad.pt2", call(target, *words)))
        assert f"the operator {target}" in output
    assert not mark.exists()

    def pickled(data):
        config = json.loads(data)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    bad = tmp_path / "u2net-bad.pt2"
    assert "is pickled" in told(changed(fixed, bad, model_weights_config=pickled))
    with zipfile.ZipFile(changed(fixed, bad), "a") as archive:
        archive.writestr("u2net/data/constants/opaque_obj_0", pickle.dumps(Evil()))
    assert compute(photographs, tmp_path / "fine", "--weights", bad).exit_code == 0
    assert "compressed" in told(changed(fixed, bad, compression=zipfile.ZIP_DEFLATED))
    bad.write_bytes(fixed.read_bytes()[:-300])
    assert "it holds no program" in told(bad)
    bad.write_bytes(b"no archive")
    assert "File is not a zip file" in told(bad)
    data = bytearray(fixed.read_bytes())
    data[data.index(b"weight_0") + 200] ^= 1
    bad.write_bytes(data)
    assert "damaged" in told(bad)
    torch.save(Net().state_dict(), bad)
    assert "it holds no program" in told(bad)
    training = export(tmp_path / "u2net-one.pt2", nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 32, 32))
    assert compute(photographs, tmp_path / "one", "--weights", training).exit_code == 0


def test_a_network_that_changes_itself_is_refused(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen.add_(1)
            return x[:, :1] + self.seen

    path = export(tmp_path / "counting.pt2", Counting(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match="changes its own"):
        Program(path, torch.device("cpu"), "it")(torch.zeros(1, 3, 32, 32))

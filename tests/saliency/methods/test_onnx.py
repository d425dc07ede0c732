"""Networks in ONNX files: their masks beside the same networks run plainly by PyTorch."""

import sys

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from data.images import decode
from data.masks.read import MaskShards
from saliency.cli import main
from saliency.methods.protocol import NORMALISATIONS

FLOATS = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
OPTIONS = ("--method", "onnx", "--device", "cpu", "--jobs", 1, "--max-failures", 1)


class Small(nn.Module):
    """A network with a small side output before its map, and a score of each image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x):
        features = torch.relu(self.first(x))
        side = nn.functional.max_pool2d(features, 2)
        return self.last(side), 3 * self.last(features), features.mean(dim=(2, 3))


def write(path, shape=("N", 3, "H", "W"), dtype=torch.float32, outputs=(0, 1, 2), network=None):
    """Write the small network's layers as an ONNX file, node by node."""
    state = (network or Small()).to(dtype).state_dict()
    weights = [numpy_helper.from_array(v.numpy(), k) for k, v in state.items()]
    weights.append(numpy_helper.from_array(torch.tensor([3.0]).to(dtype).numpy(), "three"))
    pads = {"pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["c"], **pads),
        helper.make_node("Relu", ["c"], ["f"]),
        helper.make_node("MaxPool", ["f"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "last.weight", "last.bias"], ["side"], **pads),
        helper.make_node("Conv", ["f", "last.weight", "last.bias"], ["d"], **pads),
        helper.make_node("Mul", ["d", "three"], ["map"]),
        helper.make_node("ReduceMean", ["f"], ["score"], axes=[2, 3], keepdims=0),
    ]
    shapes = {"side": (shape[0], 1, "h", "w"), "map": (shape[0], 1, "H2", "W2")}
    shapes["score"] = (shape[0], 5)
    chosen = [list(shapes)[number] for number in outputs]
    save(path, nodes, FLOATS[dtype], {"x": shape}, {n: shapes[n] for n in chosen}, weights)
    return path


def save(path, nodes, kind, inputs, outputs, weights=()):
    def values(shapes):
        return [helper.make_tensor_value_info(n, kind, shape) for n, shape in shapes.items()]

    graph = helper.make_graph(nodes, "small", values(inputs), values(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def compute(images, out, weights, *more):
    arguments = (images, out, "--weights", weights, *OPTIONS, *more)
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def plain_mask(network, image, size, name):
    """What rembg does: its preprocessing, the network, its output stretched, here to uint8."""
    row = NORMALISATIONS[name]
    height, width = size
    x = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)) / 1.0
    x = (x / x.max() - row.mean) / row.std
    x = torch.from_numpy(x.transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        logits = network.float()(x)[1][0, 0]
    value = torch.sigmoid(logits) if "sigmoid" in row.output else logits
    value = ((value - value.min()) / (value.max() - value.min())).numpy()
    resized = Image.fromarray(value).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized).clip(0, 1) * 255


CASES = {
    "u2netp": (("N", 3, "H", "W"), torch.float32, (48, 48), ("--input-size", 48), 1),
    "isnet-general-use": ((1, 3, 40, 64), torch.float32, (40, 64), (), 1),
    "BiRefNet-epoch_1": ((4, 3, 48, 48), torch.float16, (48, 48), (), 4),
}


@pytest.mark.parametrize("name", CASES)
def test_masks_are_those_of_the_network_run_plainly(photographs, tmp_path, name):
    shape, dtype, size, options, tolerance = CASES[name]
    weights = write(tmp_path / f"{name}.onnx", shape, dtype)
    done = compute(photographs, tmp_path / "out", weights, "--batch-size", 5, *options)
    assert done.exit_code == 0, done.output
    shards, row = MaskShards(tmp_path / "out"), name.lower().split("-epoch")[0]
    row = "u2net" if row == "u2netp" else row
    for key in (k for k in shards.keys if "disc" in k):
        expected = plain_mask(Small(), decode(photographs / key).image, size, row)
        np.testing.assert_allclose(shards.read(key), expected, atol=tolerance)
        assert np.ptp(shards.read(key)) > 200
    recorded = shards.parameters
    assert recorded["output"] == "map" and recorded["input_size"] == list(size)
    assert recorded["precision"] == str(dtype)[6:] and len(recorded["weights_sha256"]) == 64
    assert recorded["normalisation"]["std"] == list(NORMALISATIONS[row].std)


def test_parts_of_the_normalisation_are_changed_one_by_one(photographs, tmp_path):
    """A network that passes red on: its map is what the options make of the pixels."""
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["red"], axis=1),
        helper.make_node("Unsqueeze", ["red", "one"], ["map"]),
    ]
    numbers = [numpy_helper.from_array(np.array(0), "zero")]
    numbers.append(numpy_helper.from_array(np.array([1]), "one"))
    shape = ("N", 3, 64, 64)
    path = tmp_path / "mine.onnx"
    save(path, nodes, TensorProto.FLOAT, {"x": shape}, {"map": ("N", 1, 64, 64)}, numbers)
    how = ("--normalisation", "imagenet", "--mean", "-.5,0,0", "--std", 2, "--output", "sigmoid")
    done = compute(photographs, tmp_path / "out", path, *how)
    assert done.exit_code == 0, done.output
    image = decode(photographs / "a/disc-0.png").image
    red = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.LANCZOS))[..., 0]
    expected = 255 / (1 + np.exp(-(red / 255 + 0.5) / 2))
    mask = MaskShards(tmp_path / "out").read("a/disc-0.png")
    assert abs(mask.mean() - expected.mean()) < 1 and abs(int(mask.max()) - expected.max()) < 2


def test_what_cannot_be_run_gets_a_sentence(photographs, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def told(weights, *more):
        done = compute(photographs, out, weights, *more)
        assert done.exit_code == 2 and "Traceback" not in done.output, done.output
        assert not out.exists()
        return done.output

    good = write(tmp_path / "u2net.onnx")
    assert "no such file" in told(tmp_path / "no.onnx")
    assert "--normalisation" in told(write(tmp_path / "mine.onnx"))
    assert "choose one by --input-size" in told(good, "--normalisation", "imagenet")
    assert "three for red, green and blue" in told(good, "--mean", "1,2")
    assert "numbers above 0" in told(good, "--std", "0")
    assert "--precision bf16 does not belong" in told(good, "--precision", "bf16")
    fixed = write(tmp_path / "u2net-64.onnx", ("N", 3, 64, 64))
    assert "takes 64 x 64 pixels" in told(fixed, "--input-size", 32)
    gray = write(tmp_path / "u2net-gray.onnx", ("N", 1, "H", "W"))
    assert "takes (any, 1, any, any), not images" in told(gray)
    score = write(tmp_path / "u2net-score.onnx", outputs=(2,))
    assert "gives (2, 5), of which none is a map" in told(score, "--input-size", 32)
    words = tmp_path / "u2net-words.onnx"
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    save(words, nodes, TensorProto.INT64, {"x": ("N", 3, 32, 32)}, {"y": ("N", 3, 32, 32)})
    assert "takes (tensor(int64)), not images" in told(words)
    torn = tmp_path / "u2net-torn.onnx"
    torn.write_bytes(good.read_bytes()[:-90])
    assert "cannot be read (" in told(torn)
    torch.save({}, tmp_path / "u2net.pth")
    assert "cannot be read (" in told(tmp_path / "u2net.pth")
    monkeypatch.setattr("onnxruntime.__version__", "1.23.2")
    assert "install a newer one" in told(good)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'dilo[onnx]'" in told(good)


@pytest.mark.parametrize("location", ["weights.bin", "../outside.bin", "{absolute}", "link.bin"])
def test_no_other_file_is_read(photographs, tmp_path, location):
    folder, outside = tmp_path / "folder", tmp_path / "outside.bin"
    folder.mkdir()
    kernel = np.ones((1, 3, 1, 1), np.float32)
    for path in (outside, folder / "weights.bin"):
        path.write_bytes(kernel.tobytes())
    (folder / "link.bin").symlink_to(outside)
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=kernel.shape)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location.format(absolute=outside))
    weight.external_data.add(key="length", value=str(kernel.nbytes))
    nodes, shapes = [helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 32, 32)}
    network = folder / "u2net.onnx"
    save(network, nodes, TensorProto.FLOAT, shapes, {"y": (1, 1, 32, 32)}, [weight])
    done = compute(photographs, tmp_path / "out", network)
    assert done.exit_code == 2 and "keeps its weights in another file" in done.output


def test_a_network_that_asks_for_all_memory_is_refused(photographs, tmp_path):
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1]),
        helper.make_node("Add", ["m", "zeros"], ["y"]),
    ]
    huge = numpy_helper.from_array(np.array([1, 1, 2**20, 2**20]), "huge")
    path, shapes = tmp_path / "u2net.onnx", {"x": (1, 3, 1, 1)}
    save(path, nodes, TensorProto.FLOAT, shapes, {"y": (1, 1, "h", "w")}, [huge])
    done = compute(photographs, tmp_path / "out", path)
    assert done.exit_code != 0 and "the memory is exhausted" in done.output, done.output

"""Files of weights from anybody: read, or refused in a sentence, and never run."""

import collections
import os
import pickle

import pytest
import safetensors.torch
import torch

from data.errors import UserError
from data.weights import read_weights

STATE = {"a": torch.arange(3.0), "b.c": torch.ones(2, 2, dtype=torch.float16)}


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def same(found):
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("zipped", [True, False], ids=["new", "before 1.6"])
def test_torch_save(tmp_path, zipped):
    path = tmp_path / "weights.pth"
    torch.save(collections.OrderedDict(STATE), path, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path, "--weights"))


def test_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(STATE, path, metadata={"arch": "resnet18"})
    found = read_weights(path, "--weights")
    assert found["arch"] == "resnet18" and same(found["state_dict"])
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=r"--weights '.*' cannot be read .*; copy it again"):
        read_weights(path, "--weights")


def flip(data):
    middle = data.index(b"\0\0\x80?")  # 1.0
    return data[:middle] + b"\1" + data[middle + 1 :]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip, "is damaged .*; copy it again"),
        (lambda data: data[:-100], "not a file that torch.save wrote, or is cut short"),
        (lambda data: b"", "not a file that torch.save wrote"),
        (lambda data: b"<html>", "not a file that torch.save wrote"),
        (lambda data: pickle.dumps([1], 2)[:-1], "cannot be read|holds Python objects"),
        (lambda data: pickle.dumps(Evil(), 2), "could run code; save it again"),
    ],
    ids=["a bit", "cut", "empty", "html", "half a pickle", "evil pickle"],
)
def test_harm_is_told(tmp_path, monkeypatch, harm, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UserError, match=f"init '.*weights.pth'.*{words}") as caught:
        read_weights(path, "init")
    assert "\n" not in caught.value.message and "weights_only" not in caught.value.message
    assert not (tmp_path / "pwned").exists()


def test_a_whole_model_is_not_unpickled(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"holds Python objects, .*torch.save\(model.state_dict"):
        read_weights(path, "init")
    torch.save(torch.zeros(3), path)
    with pytest.raises(UserError, match="holds a Tensor, not a state_dict"):
        read_weights(path, "init")
    with pytest.raises(UserError, match="there is no such file; give a file of weights"):
        read_weights(tmp_path, "init")

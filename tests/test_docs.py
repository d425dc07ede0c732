"""The documents name files that exist, and the examples of how to add one run as they stand."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"^`([\w/]+)\.py`:\n\n```python\n(.*?)```\n\nand in `([\w/]+)\.py`:\n\n```python\n(.*?)```",
    ARCHITECTURE,
    flags=re.MULTILINE | re.DOTALL,
)
OURS = re.compile(
    r"`((?:data|saliency|pretrain|evaluate|demo|benchmarks|configs|tests|docs)/[\w./-]*)`"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    examples = {f"{example[0]}.py" for example in EXAMPLES}
    for path in OURS.findall(page.read_text(encoding="utf-8")):
        assert (REPOSITORY / path).exists() or path in examples, path


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Put an example's file where it is imported from, and run its line."""

    def add(path):
        ((text, registry, line),) = [e[1:] for e in EXAMPLES if e[0] == path]
        module, name = path.replace("/", "."), path.rpartition("/")[2]
        (tmp_path / f"example_{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        of_registry = registry.replace("/", ".").removesuffix(".__init__")
        namespace = vars(sys.modules.get(of_registry) or __import__(of_registry, fromlist=["x"]))
        table, key = re.match(r'(\w+)\["(\w+)"\]', line).groups()
        monkeypatch.setitem(namespace[table], key, None)  # removed afterwards
        exec(line.replace(module, f"example_{name}"), namespace)

    yield add
    for name in [name for name in sys.modules if name.startswith("example_")]:
        del sys.modules[name]


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def run(command, *arguments):
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_there_are_four_examples():
    assert [path.partition("/")[0] for path, *_ in EXAMPLES] == [
        *("saliency", "data", "pretrain", "evaluate"),
    ]


def test_saliency_background_and_training_method(example, photos, tmp_path):
    from data.masks.read import MaskShards
    from pretrain.cli import main as pretrain
    from saliency.cli import main as saliency_compute

    for path in ("saliency/methods/centre", "data/backgrounds/noise", "pretrain/methods/mirror"):
        example(path)
    masks, out = tmp_path / "masks", tmp_path / "run"
    run(saliency_compute, photos, masks, "--method", "centre", "--jobs", 1)
    mask = MaskShards(masks).read("a/0.png")
    assert mask[20, 30] == 255 and mask[0, 0] < 20
    output = run(
        pretrain, photos, "--masks", masks, "--out", out, "--method", "mirror", "--background",
        "noise", "--arch", "resnet18", "--image-size", 32, "--batch-size", 4, "--epochs", 2,
        "--workers", 0, "--device", "cpu", "--set", "knn_every=0",
    )  # fmt: skip
    assert "mirror, resnet18" in output and (out / "backbone.pt").is_file()


def test_probe(example, photos, tmp_path):
    from evaluate.cli import main as probe

    example("evaluate/sizes")
    output = run(probe, "sizes", photos, "--out", tmp_path / "out")
    assert "(40, 60)" in output and (tmp_path / "out" / "results.json").is_file()

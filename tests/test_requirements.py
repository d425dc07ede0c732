"""The product's packages import what setup.cfg says that installing it brings, and all of that."""

import ast
import configparser
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("saliency", "data", "pretrain", "evaluate")
DISTRIBUTION = {
    "cv2": "opencv-contrib-python-headless",
    "PIL": "pillow",
    "py_sod_metrics": "pysodmetrics",
}
BEHIND = {"tensorboard"}  # imported by torch.utils.tensorboard alone
EXTRAS = {"dask", "distributed", "ray", "pycocotools", "onnxruntime", "pyarrow"}


def imported() -> set[str]:
    names = set()
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_product_imports_what_is_installed_with_it():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    required = {line.partition(">")[0] for line in config["options"]["install_requires"].split()}
    foreign = imported() - set(sys.stdlib_module_names) - {*PACKAGES, "dilo"} - EXTRAS
    assert {DISTRIBUTION.get(name, name) for name in foreign} | BEHIND == required

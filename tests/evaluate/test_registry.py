"""A probe is a module and a line in the registry; nothing else names it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from evaluate import PROBES, Probe

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = '''
"""`probe toy`: how many images there are."""

from pathlib import Path

from data.images.listing import list_images
from data.options import setting
from evaluate.options import Count, ResultOptions
from evaluate.results import Report


class Options(ResultOptions):
    """Count the images of IMAGES."""

    images: Path = setting(..., "the folder", argument=True)
    times: Count = setting(1, "count so many times")


def run(options, results):
    count = options.times * len(list_images(options.images))
    results.path("count.txt").write_text(str(count))
    return Report({"count": count}, [{"images": str(count)}], notes=["counted"])
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_probe.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PROBES, "toy", Probe("toy_probe", "Count images."))
    yield
    sys.modules.pop("toy_probe", None)


def test_a_probe_is_a_module_and_a_line(toy, tmp_path, probe, split_folder):
    assert "toy         Count images." in probe("--help").stdout
    text = probe("toy", "--help").stdout
    assert "Count the images of IMAGES" in text and "--times" in text and "--overwrite" in text
    out = tmp_path / "out"
    result = probe("toy", split_folder, "--times", 2, "--out", out)
    assert "102" in result.stdout and "counted" in result.stderr
    assert (out / "count.txt").read_text() == "102"
    assert '"count": 102' in (out / "results.json").read_text()
    assert "--times is 0" in probe("toy", split_folder, "--times", 0, code=2).stderr
    assert "--overwrite" in probe("toy", split_folder, "--out", out, code=2).stderr


def test_an_unknown_probe_is_one_sentence(probe):
    result = probe("knnn", "x", code=2)
    assert result.stderr.count("\n") == 1
    assert "there is no probe 'knnn'" in result.stderr and "linear, knn" in result.stderr


def test_the_documentation_lists_the_registry():
    text = (REPOSITORY / "docs" / "probe.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `probe (\w+)` \| (.+) \|$", text, flags=re.MULTILINE)
    assert rows == [(name, probe.help) for name, probe in PROBES.items()]


def test_help_of_every_probe_is_without_torch():
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from evaluate import PROBES\n"
        "from evaluate.cli import main\n"
        "for name in PROBES:\n"
        "    assert CliRunner().invoke(main, [name, '--help']).exit_code == 0, name\n"
        "    assert 'torch' not in sys.modules, name\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0

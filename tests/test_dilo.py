"""The entry points notice packages of the same name that belong to somebody else."""

import subprocess
import sys

from dilo import foreign_package


def test_own_packages_are_recognised():
    assert foreign_package(("data", "saliency", "pretrain", "evaluate")) is None


def test_missing_package_is_named():
    assert "'no_such_package'" in foreign_package(("no_such_package",))


def test_foreign_package_ends_the_command_with_one_sentence(tmp_path):
    package = tmp_path / "evaluate"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dilo; dilo.probe()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'evaluate'" in done.stderr and "environment of its own" in done.stderr

"""The entry points: other packages of the same names, signals at the start, surroundings."""

import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from data.masks.read import MaskShards
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


def assert_it_ends(program: str, number: signal.Signals, said: str = "") -> None:
    """By the signal that it sends itself, with its code and sentence, having said no more."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert done.stderr == f"Stopped by {number.name}.\n" and done.stdout == said


@pytest.mark.parametrize("library", ["data", "click", "numpy", "saliency.cli"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_load_ends_with_its_code(library, number):
    program = f"""
import os, sys, dilo
class Signal:
    def find_spec(name, path=None, target=None):
        if name == {library!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Signal)
sys.argv = ["saliency-compute", "--help"]
dilo.saliency_compute()
"""
    assert_it_ends(program, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_swallows_while_it_loads_ends_it_all_the_same(number):
    program = f"""
import os, sys, dilo
class Swallows:
    def find_spec(name, path=None, target=None):
        if name == "saliency.cli":
            try:
                os.kill(os.getpid(), {int(number)})
            except BaseException:
                pass
sys.meta_path.insert(0, Swallows)
sys.argv = ["saliency-compute", "--help"]
dilo.saliency_compute()
"""
    assert_it_ends(program, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_so_does_one_that_is_swallowed_by_what_a_command_loads_while_it_works(tmp_path, number):
    swallows = f"""
import os
try:
    os.kill(os.getpid(), {int(number)})
except BaseException:
    pass
"""
    (tmp_path / "swallows.py").write_text(swallows)
    program = f"""
import sys, dilo, saliency.cli
sys.path.insert(0, {str(tmp_path)!r})
def main():
    try:
        import swallows
        while True:
            pass
    finally:
        print("tidied up")
saliency.cli.main = main
dilo.saliency_compute()
"""
    assert_it_ends(program, number, "tidied up\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_a_command_tidy_up_and_the_second_ends_it(number):
    program = f"""
import os, dilo, saliency.cli
def main():
    try:
        os.kill(os.getpid(), {int(number)})
    finally:
        print("tidied up", flush=True)
        os.kill(os.getpid(), {int(number)})
        print("never")
saliency.cli.main = main
dilo.saliency_compute()
"""
    assert_it_ends(program, number, "tidied up\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_a_command_is_done_leaves_its_code(number):
    program = f"""
import os, sys, dilo
class TakenDown:
    def __del__(self, kill=os.kill, pid=os.getpid(), write=os.write):
        kill(pid, {int(number)})
        write(1, b"taken down")
sys.kept = TakenDown()
sys.argv = ["mask-shards", "--help"]
dilo.mask_shards()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.endswith("taken down")


def test_a_notebooks_matplotlib_backend_is_not_asked_for():
    program = """
import sys, dilo
sys.argv = ["mask-shards", "--help"]
try:
    dilo.mask_shards()
except SystemExit:
    import matplotlib.pyplot
    print(matplotlib.get_backend().lower())
"""
    elsewhere = {**os.environ, "MPLBACKEND": "module://a_notebooks.backend"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=elsewhere
    )
    assert done.stdout.splitlines()[-1] == "agg"


def test_names_of_images_are_utf8_in_every_locale(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.effect_noise((40, 30), 60).save(tmp_path / "photos" / "Zürich.png")
    program = "import dilo; dilo.saliency_compute()"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, "photos", "masks", "--jobs", "1"],
        capture_output=True,
        env={**os.environ, **ascii_only, "PYTHONPATH": os.getcwd()},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    with MaskShards(tmp_path / "masks") as shards:
        assert list(shards.keys) == ["Zürich.png"]
        assert shards.read("Zürich.png").shape == (30, 40)


def test_garbage_is_hardly_looked_for_at_the_start_and_the_end():
    program = """
import atexit, gc, sys
looked = []
gc.callbacks.append(lambda phase, info: looked.append(phase))
atexit.register(lambda: print(len(looked), gc.get_freeze_count()))
import dilo
sys.argv = ["pretrain", "--settings"]
dilo.pretrain()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    looked, frozen = map(int, done.stdout.splitlines()[-1].split())
    assert looked < 400 and frozen > 50_000  # else 1,700, and none


def test_the_last_asking_may_come_when_all_is_done():
    program = """
import atexit, os, signal, sys, dilo
class Signal:
    def find_spec(name, path=None, target=None):
        if name == "click":
            atexit.register(os.kill, os.getpid(), signal.SIGVTALRM)
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Signal)
sys.argv = ["mask-shards", "--help"]
dilo.mask_shards()
"""
    assert_it_ends(program, signal.SIGTERM)

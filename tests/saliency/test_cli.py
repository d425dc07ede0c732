"""saliency-compute as a user meets it: odd images, wrong arguments, a full disk."""

import os
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import saliency
from data.images.decode import decode
from data.masks.format import Status, read_header, shard_name
from data.masks.read import MaskShards
from data.masks.verify import verify
from saliency.cli import main
from saliency.workers import to_uint8

REPOSITORY = Path(__file__).resolve().parents[2]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(
        main, [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments]
    )


def call_in_process(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "saliency", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


# Odd images ---------------------------------------------------------------------------------------

OK, FLAT, UNREADABLE = Status.OK, Status.FLAT, Status.UNREADABLE
ODD = {
    # name: (status, (height, width), words of the reason)
    "10x4000.png": (FLAT, (10, 4000), ""),
    "1x1.png": (FLAT, (1, 1), ""),
    "16-bit.png": (OK, (120, 160), ""),
    "a name with spaces.jpg": (OK, (120, 160), ""),
    "alpha.png": (OK, (120, 160), ""),
    "animated.gif": (OK, (120, 160), ""),
    "cmyk.jpg": (OK, (120, 160), ""),
    "empty.jpg": (UNREADABLE, (0, 0), "empty file"),
    "exif/turned.jpg": (OK, (160, 120), ""),
    "flat.png": (FLAT, (40, 50), ""),
    "gray.jpg": (OK, (120, 160), ""),
    "large.png": (OK, (4000, 5000), ""),
    "link to nothing.jpg": (UNREADABLE, (0, 0), "no such file"),
    "n\newline.png": (OK, (120, 160), ""),
    "no image.jpg": (UNREADABLE, (0, 0), "not an image"),
    "palette.png": (OK, (120, 160), ""),
    "png named.JPEG": (OK, (120, 160), ""),
    "q'uo\"te.png": (OK, (120, 160), ""),
    "raw bytes \udcff.png": (OK, (120, 160), ""),
    "truncated.jpg": (UNREADABLE, (0, 0), "truncated"),
    "é漢.png": (OK, (120, 160), ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory, draw_disc) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    pixels = draw_disc(120, 160, 0)
    picture = Image.fromarray(pixels)
    (folder / "exif").mkdir()
    for name in ODD:
        if name.endswith(".png") and ODD[name][1] == (120, 160):
            picture.save(folder / name)
    picture.save(folder / "a name with spaces.jpg")
    picture.save(folder / "png named.JPEG", format="PNG")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("L").save(folder / "gray.jpg")
    picture.convert("P").save(folder / "palette.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "16-bit.png")
    alpha = np.dstack([pixels, np.full((120, 160), 255, np.uint8)])
    alpha[:, :9, 3] = 0
    Image.fromarray(alpha).save(folder / "alpha.png")
    others = [Image.fromarray(draw_disc(120, 160, seed)) for seed in (1, 2)]
    picture.save(folder / "animated.gif", save_all=True, append_images=others)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "exif/turned.jpg", exif=exif)
    Image.new("RGB", (1, 1), (1, 2, 3)).save(folder / "1x1.png")
    Image.fromarray(draw_disc(10, 4000, 3)).save(folder / "10x4000.png")
    Image.new("RGB", (50, 40), (1, 2, 3)).save(folder / "flat.png")
    large = Image.new("RGB", (5000, 4000), (30, 90, 30))
    large.paste((200, 50, 50), (2000, 1500, 3000, 2500))
    large.save(folder / "large.png", compress_level=1)
    (folder / "empty.jpg").touch()
    (folder / "no image.jpg").write_bytes(b"<html>404</html>" * 9)
    (folder / "truncated.jpg").write_bytes((folder / "a name with spaces.jpg").read_bytes()[:2000])
    (folder / "link to nothing.jpg").symlink_to(folder / "nothing")
    (folder / "notes.txt").write_text("no image, and not called one")
    return folder


ODD_OPTIONS = ["--jobs", 1, "--max-side", 128, "--superpixels", "authors"]


@pytest.fixture(scope="module")
def odd_run(odd_images, tmp_path_factory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("out")
    result = call(odd_images, out, *ODD_OPTIONS, "--max-failures", 0.5)
    return result, out


def test_every_image_is_a_row(odd_images, odd_run):
    result, out = odd_run
    assert result.exit_code == 0, result.output
    shards = MaskShards(out)
    assert sorted(shards.keys) == sorted(ODD)
    for key, (status, size, reason) in ODD.items():
        row = shards.find(key)
        assert (shards.status(row), shards.image_size(row)) == (status, size), key
        assert reason in shards.error(row), key
        assert bool(shards.error(row)) == bool(reason), key
        if status != UNREADABLE:
            image, _ = decode(os.path.join(odd_images, key), 128)
            assert np.array_equal(shards.read(row), to_uint8(saliency.rbd(image))), key
    report = verify(out, odd_images)
    assert report.sound


def test_images_are_seen_upright(odd_run):
    _, out = odd_run
    shards = MaskShards(out)
    upright, turned = shards.read("a name with spaces.jpg"), shards.read("exif/turned.jpg")
    assert turned.shape == upright.shape[::-1]
    assert np.abs(np.rot90(upright, -1).astype(int) - turned).mean() < 8
    assert shards.parameters["orientation"] == "upright (EXIF applied)"


def test_the_report_tells_how_many_and_why(odd_run):
    result, _ = odd_run
    assert "17 masks in" in result.stdout
    assert "3 images have an empty mask" in result.stdout
    assert "4 images have no mask" in result.stdout
    assert "'empty.jpg': empty file" in result.stdout


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_image_damaged_inside_has_a_mask_and_a_remark(odd_images, tmp_path, jobs):
    whole = (odd_images / "a name with spaces.jpg").read_bytes()
    images = tmp_path / "images"
    images.mkdir()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    (images / "whole.jpg").write_bytes(whole)
    arguments = (images, tmp_path / "out", "--jobs", jobs)
    runs = [call_in_process(*arguments) for _ in range(2)]  # the second finds all of it there
    for done in runs:
        assert done.returncode == 0
        assert "1 images are damaged inside, and their masks are of what could be" in done.stdout
        assert "  'cut.jpg': Corrupt JPEG data: premature end" in done.stdout
        assert "JPEG" not in done.stderr
    shards = MaskShards(tmp_path / "out")
    assert shards.status("cut.jpg") == OK and "premature" in shards.error("cut.jpg")
    assert shards.error("whole.jpg") == ""
    assert verify(tmp_path / "out", images).sound


def test_many_failures_are_an_exit_code_also_when_all_is_there(odd_images, odd_run):
    _, out = odd_run
    result = call(odd_images, out, *ODD_OPTIONS, "--max-failures", 0.1)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "4 of 21 images have no mask, more than --max-failures 0.1."
    )
    assert "1 shards were there already" in result.stdout


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_an_image_without_permission_is_a_row(tmp_path, monkeypatch, draw_disc):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(draw_disc(120, 160, 0)).save(images / name)
    (images / "b.png").chmod(0)
    if os.geteuid() == 0:  # root may read everything
        monkeypatch.setattr("builtins.open", _forbid("b.png", open))
    call(images, tmp_path / "out", "--jobs", 1)
    shards = MaskShards(tmp_path / "out")
    assert [shards.status(row) for row in (0, 1)] == [OK, UNREADABLE]
    assert shards.error(1) == "permission denied"


def _forbid(name, opener):
    def guarded(path, *arguments, **options):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return opener(path, *arguments, **options)

    return guarded


@pytest.mark.parametrize("width", [17_000, 66_000])
def test_a_strip_too_long_to_store_harms_no_other_image(tmp_path, draw_disc, width):
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(draw_disc(60, 60, 0)).save(images / "a.png")
    Image.new("RGB", (width, 2)).save(images / "strip.png")
    arguments = [images, tmp_path / "out", "--jobs", 1, "--max-failures", 1]
    assert call(*arguments, "--max-side", 0).exit_code == 0
    shards = MaskShards(tmp_path / "out")
    assert shards.status("a.png") == OK and shards.status("strip.png") == Status.FAILED
    assert shards.image_size("strip.png") == (2, width)
    assert shards.error("strip.png") == (
        f"{width}x2 pixels, longer than 16,384: give it --max-side"
    )
    assert read_header(tmp_path / "out" / shard_name(0)).canvas == 60
    assert call(*arguments, "--overwrite").exit_code == 0
    assert MaskShards(tmp_path / "out").status("strip.png") == FLAT


# One sentence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "sobel"], "--method is 'sobel'; choose from rbd"),
        (["--method", "rbd,"], "--method is 'rbd,'; choose from"),
        (["--method", "rbd,basnet"], "basnet goes alone"),
        (["--arch", "resnet50"], "--arch does not belong to --method rbd; leave it out"),
        (["--part", "0/3"], "--part is '0/3'; give i/n"),
        (["--part", "4/3"], "--part is '4/3'; give i/n"),
        (["--part", "first"], "--part is 'first'; give i/n"),
        (["--superpixels", "many"], "--superpixels is 'many'; give"),
        (["--superpixels", "0"], "--superpixels is '0'; give"),
        (["--superpixels", "nanpx"], "--superpixels is 'nanpx'; give"),
        (["--jobs", "0"], "--jobs is 0; give"),
        (["--jobs", "-2"], "--jobs"),
        (["--max-side", "-1"], "--max-side"),
        (["--max-side", "16385"], "--max-side"),
        (["--shard-size", "0"], "--shard-size"),
        (["--limit", "0"], "--limit"),
        (["--max-failures", "2"], "--max-failures"),
        (["--compression", "lzma"], "--compression"),
        (["--scheduler", "tcp://here:1"], "--scheduler tcp://here:1 needs a cluster"),
    ],
)
def test_a_wrong_argument_is_a_sentence(photographs, tmp_path, arguments, words):
    result = call(photographs, tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ") and words in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_folders_that_will_not_do_are_a_sentence(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    out = tmp_path / "out"
    for images, place, words in (
        (tmp_path / "missing", out, "there is no folder"),
        (tmp_path / "file", out, "is not a folder"),
        (tmp_path / "empty", out, "there are no images in"),
        (photographs, tmp_path / "file", "file' cannot be used (file exists)"),
        (photographs, tmp_path / "file" / "in it", "in it' cannot be used (not a directory)"),
    ):
        result = call(images, place, "--jobs", 1)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1].startswith("Error: ") and words in result.stderr
        assert not out.exists()


def test_an_out_of_another_run_is_a_sentence(photographs, tmp_path):
    out = tmp_path / "out"
    assert call(photographs, out, "--jobs", 1, "--max-failures", 1).exit_code == 0
    other = tmp_path / "other"
    shutil.copytree(photographs / "a", other)
    for images, arguments, words in (
        (photographs, ["--method", "gs"], "of method 'rbd', not 'gs'"),
        (other, [], "of other images than the 6 in"),
        (photographs, ["--max-side", 99], "made with max_side 400, not 99"),
        (photographs, ["--superpixels", "50"], "made with superpixels 'auto', not '50'"),
        (photographs, ["--remove-frame"], "made with remove_frame False, not True"),
    ):
        result = call(images, out, "--jobs", 1, *arguments)
        assert result.exit_code == 2 and words in result.stderr
    (out / shard_name(0)).write_bytes(b"no HDF5")
    result = call(photographs, out, "--jobs", 1)
    assert result.exit_code == 2 and "cannot be opened as HDF5" in result.stderr
    result = call(photographs, out, "--jobs", 1, "--overwrite", "--max-failures", 1)
    assert result.exit_code == 0


def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(photographs, tmp_path):
    resource = pytest.importorskip("resource")
    arguments = [photographs, tmp_path, "--jobs", 2, "--max-failures", 1]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    done = call_in_process(
        *arguments, preexec_fn=limit, env={**os.environ, "NUMBA_DISABLE_JIT": "0"}
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "cannot be used (file too large)" in last and "run the same command again" in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert call(*arguments).exit_code == 0


def test_an_out_that_cannot_be_written_is_a_sentence(photographs):
    result = call(photographs, "/proc/out", "--jobs", 1)
    assert result.exit_code == 2
    assert "'/proc/out' cannot be used (no such file or directory)" in result.stderr


# On the screen ------------------------------------------------------------------------------------


def test_a_pipe_gets_no_progress_bar(photographs, tmp_path):
    done = call_in_process(photographs, tmp_path, "--jobs", 1, "--method", "gs")
    assert done.returncode == 1  # an eighth of these images is unreadable
    assert [line for line in done.stderr.splitlines() if "Compiling" not in line] == [
        "8 images, method gs, 1 shards of up to 4096, 1 workers",
        "1 of 8 images have no mask, more than --max-failures 0.01.",
    ]
    assert "images/s" in done.stdout


def test_a_terminal_gets_one(photographs, tmp_path):
    fcntl, pty = pytest.importorskip("fcntl"), pytest.importorskip("pty")
    termios = pytest.importorskip("termios")
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "saliency", photographs, tmp_path, "--jobs", "1"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(reader, 4096)
        except OSError:  # the terminal's other end is closed
            break
    process.communicate()
    os.close(reader)
    assert b"100%" in shown and b"8/8 [" in shown and b"images/s]" in shown


# Kernels ------------------------------------------------------------------------------------------


def test_kernels_find_a_place_where_nothing_can_be_written(tmp_path):
    """Neither the installation nor a home: numba alone would refuse."""
    program = (
        "import os, sys, saliency; import saliency.regions.region_graph;"
        "print(os.environ['NUMBA_CACHE_DIR'])"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "HOME": "/nonexistent", "TMPDIR": str(tmp_path)}
    environment = {
        k: v for k, v in environment.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    installed = tmp_path / "installed"
    for package in ("saliency", "data"):
        shutil.copytree(
            REPOSITORY / package, installed / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    tmp_path.chmod(0o777)
    for folder in (f for f in tmp_path.parents if "pytest-" in str(f)):
        folder.chmod(folder.stat().st_mode | 0o055)
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv to stop being root")
        command = ["setpriv", "--reuid=65534", "--clear-groups", *command]
    else:
        for folder in installed.rglob("*/"):
            folder.chmod(0o555)
    for _ in range(2):
        done = subprocess.run(
            command, cwd=installed, env=environment, capture_output=True, text=True
        )
        if "Permission denied" in done.stderr and "setpriv" in command[0] and "site" in done.stderr:
            pytest.skip("another user cannot read this Python")
        assert done.returncode == 0, done.stderr
        user = 65534 if os.geteuid() == 0 else os.getuid()
        assert done.stdout.strip() == str(tmp_path / f"dilo-kernels-{user}")
    assert (tmp_path / f"dilo-kernels-{user}").stat().st_mode & 0o077 == 0


# Archives -----------------------------------------------------------------------------------------


def test_masks_of_a_tar_are_the_folders(photographs, tmp_path):
    with tarfile.open(tmp_path / "photographs.tar", "w") as tar:
        tar.add(photographs, "photographs")
    options = ["--method", "rbd", "--max-failures", 1, "--jobs", 1]
    for images, out in ((photographs, "a"), (tmp_path / "photographs.tar", "b")):
        done = call(images, tmp_path / out, *options)
        assert done.exit_code == 0, done.output
    ours, theirs = MaskShards(tmp_path / "b"), MaskShards(tmp_path / "a")
    assert ours.keys == theirs.keys and (ours.statuses() == theirs.statuses()).all()
    assert all((ours.read(key) == theirs.read(key)).all() for key in ours.keys)

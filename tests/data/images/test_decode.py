"""Folders are listed whole; images are seen as Pillow shows them, or refused with a reason."""

import os
import tracemalloc
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from data.errors import UserError, errors_told
from data.images import limits
from data.images.decode import UnreadableImage, decode, read_size
from data.images.listing import OddEndings, key_path, list_images


def photograph(height=60, width=80, seed=0):
    """A smooth picture that no two corners of which look alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


# Folders ----------------------------------------------------------------------------------------


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_lists_images_of_any_tree_sorted_by_bytes(tmp_path):
    odd = ["b 'q\" é 漢.png", "c\n.webp", os.fsdecode(b"\xff.jpg")]
    for name in ("n1/x.JPEG", "n1/deep/er/y.jpg", "a.TIF", "n1.jpg", "Z.png", *odd):
        touch(tmp_path / name)
    for name in ("notes.txt", ".hidden.jpg", ".git/x.jpg", "noext", "n1/.x.png"):
        touch(tmp_path / name)
    (tmp_path / "folder.jpg").mkdir()
    keys = list_images(tmp_path)
    expected = ["Z.png", "a.TIF", odd[0], odd[1], "n1.jpg", "n1/deep/er/y.jpg", "n1/x.JPEG", odd[2]]
    assert list(keys) == expected
    assert all(os.path.exists(key_path(tmp_path, key)) for key in keys)


def test_follows_links_without_cycles(tmp_path):
    touch(tmp_path / "else" / "x.jpg")
    root = tmp_path / "root"
    touch(root / "y.jpg")
    (root / "link").symlink_to(tmp_path / "else")
    (root / "z.jpg").symlink_to(root / "y.jpg")
    (root / "sub").mkdir()
    (root / "sub" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (tmp_path / "else" / "back").symlink_to(root)
    assert list(list_images(root)) == ["link/x.jpg", "y.jpg", "z.jpg"]


def test_a_broken_link_is_an_image_that_is_missing(tmp_path):
    touch(tmp_path / "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert list(list_images(tmp_path)) == ["a.jpg", "gone.jpg"]
    with pytest.raises(UnreadableImage, match="no such file"):
        decode(tmp_path / "gone.jpg")


def test_a_pipe_is_no_image(tmp_path):
    touch(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    assert list(list_images(tmp_path)) == ["a.jpg"]


def test_folders_that_cannot_be_listed_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no folder '.*missing'"):
        list_images(tmp_path / "missing")
    touch(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=r"no images in '.*' \(files ending"):
        list_images(tmp_path)
    with pytest.raises(UserError, match=r"notes.txt' is not a folder"):
        list_images(tmp_path / "notes.txt")
    touch(tmp_path / "closed" / "a.jpg")
    scandir = os.scandir

    def refuse(path):
        if "closed" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"closed' .*permission denied"), errors_told():
        list_images(tmp_path)


# What Pillow shows ------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["ecssd/images", "imagenet-sample"])
def test_photographs_are_pillows_to_the_bit(shared_data, folder):
    root = shared_data / folder
    keys = list_images(root)
    for key in keys[:: max(1, len(keys) // 80)]:
        shown = ImageOps.exif_transpose(Image.open(key_path(root, key))).convert("RGB")
        decoded = decode(key_path(root, key))
        assert np.array_equal(decoded.image, np.asarray(shown)), key
        assert decoded.image_size == (shown.height, shown.width)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_every_kind_of_jpeg_is_pillows_to_the_bit(tmp_path, progressive, subsampling):
    path = tmp_path / "a.jpg"
    photograph(61, 83).save(path, progressive=progressive, subsampling=subsampling, quality=75)
    assert np.array_equal(decode(path).image, np.asarray(Image.open(path)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, kind, orientation):
    path = tmp_path / "image"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    photograph().save(path, kind, exif=exif, **options)
    with Image.open(path) as image:
        image.load()
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert shown.shape == ((60, 80, 3) if orientation < 5 else (80, 60, 3))
    decoded = decode(path)
    assert np.array_equal(decoded.image, shown)
    assert decoded.image_size == read_size(path) == shown.shape[:2]


def test_a_wrong_orientation_or_damaged_exif_is_ignored(tmp_path):
    for number, content in enumerate((b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")):
        photograph().save(tmp_path / f"{number}.jpg", exif=content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode(tmp_path / f"{number}.jpg").image.shape == (60, 80, 3)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        path = tmp_path / f"a.{kind}"
        options = {"lossless": True} if kind == "WEBP" else {}
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
        assert (decode(path).image == (255, 0, 0)).all(), kind


def test_a_png_that_calls_itself_jpeg(tmp_path):
    path = tmp_path / "a.JPEG"
    photograph().save(path, "PNG")
    assert np.array_equal(decode(path).image, np.asarray(photograph()))


@pytest.mark.parametrize("size", [(1, 1), (10, 4000), (4000, 10)])
def test_extreme_shapes(tmp_path, size):
    path = tmp_path / "a.png"
    Image.new("RGB", size, (1, 2, 3)).save(path)
    decoded = decode(path, 400)
    assert decoded.image_size == (size[1], size[0])
    assert decoded.image.shape == {1: (1, 1, 3), 10: (400, 1, 3), 4000: (1, 400, 3)}[size[0]]
    assert (decoded.image == (1, 2, 3)).all()


# Scaling ----------------------------------------------------------------------------------------


def test_never_enlarged_and_zero_means_as_it_is(tmp_path):
    photograph(30, 40).save(tmp_path / "a.png")
    for cap in (0, 40, 41, 400):
        assert np.array_equal(decode(tmp_path / "a.png", cap).image, np.asarray(photograph(30, 40)))
    with pytest.raises(UnreadableImage):
        decode(tmp_path / "b.png", 0)


@pytest.mark.parametrize(("size", "expected"), [((375, 500), (300, 400)), ((333, 500), (266, 400))])
def test_the_long_side_is_capped(tmp_path, size, expected):
    photograph(*size).save(tmp_path / "a.jpg")
    decoded = decode(tmp_path / "a.jpg", 400)
    assert decoded.image.shape == (*expected, 3)
    assert decoded.image_size == size


def test_scaling_down_takes_averages(tmp_path):
    """A checkerboard of pixels becomes even grey; without antialiasing it would not."""
    board = (np.indices((300, 400)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    for cap in (200, 100, 25):  # the last one in two steps
        assert np.abs(decode(tmp_path / "a.png", cap).image.astype(int) - 127).max() <= 1


def test_large_images_scale_alike_by_every_route(tmp_path):
    """DCT scaling, averages over squares and area averages agree but for rounding."""
    image = photograph(1200, 1600)
    image.save(tmp_path / "a.jpg", quality=98, subsampling="4:4:4")
    image.save(tmp_path / "a.png")
    expected = cv2.resize(np.asarray(image), (150, 112), interpolation=cv2.INTER_AREA)
    for name in ("a.jpg", "a.png"):
        scaled = decode(tmp_path / name, 150).image.astype(int)
        assert np.abs(scaled - expected).max() <= 3


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_image_with_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(1200, 1600).save(tmp_path / "a.jpg", exif=exif, quality=95)
    decoded = decode(tmp_path / "a.jpg", 100)
    full = decode(tmp_path / "a.jpg").image
    assert decoded.image_size == full.shape[:2]
    small = cv2.resize(full, decoded.image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(decoded.image.astype(int) - small).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_hundred_megapixels(tmp_path, kind):
    path = tmp_path / "a"
    Image.new("RGB" if kind == "JPEG" else "L", (10_000, 10_000), 77).save(path, kind)
    tracemalloc.start()  # sees numpy's memory: no copy of the whole image
    decoded = decode(path, 400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded.image_size == (10_000, 10_000)
    assert decoded.image.shape == (400, 400, 3)
    assert decoded.image[..., 0].min() == decoded.image[..., 0].max()
    assert peak < 60e6
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's own limit is as it was


# Refusals ---------------------------------------------------------------------------------------


def test_every_kind_of_bad_file_has_a_reason(tmp_path):
    photograph(200, 300).save(tmp_path / "good.jpg")
    photograph(200, 300).save(tmp_path / "good.png")
    jpeg, png = (tmp_path / "good.jpg").read_bytes(), (tmp_path / "good.png").read_bytes()
    files = {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"hello, world" * 100, "not an image"),
        "truncated.jpg": (jpeg[: len(jpeg) * 2 // 3], "truncated"),
        "header.jpg": (jpeg[:3], "."),
        "truncated.png": (png[: len(png) * 2 // 3], "."),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=reason) as caught:
            decode(tmp_path / name)
        assert "\n" not in str(caught.value) and 0 < len(str(caught.value)) < 100
    with pytest.raises(UnreadableImage, match="directory"):
        decode(tmp_path)


def test_any_truncation_of_a_jpeg_is_an_image_or_a_reason(tmp_path):
    photograph(50, 60).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    refused = 0
    for length in range(0, len(whole), 7):
        (tmp_path / "b.jpg").write_bytes(whole[:length])
        try:
            assert decode(tmp_path / "b.jpg").image.shape == (50, 60, 3)
        except UnreadableImage:
            refused += 1
    assert refused > len(whole) // 7 * 0.9


def test_flipped_bytes_never_crash(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        photograph(40, 50).save(tmp_path / "a", kind)
        whole = np.frombuffer((tmp_path / "a").read_bytes(), np.uint8)
        for _ in range(20):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 5)] = rng.integers(0, 256, 5)
            (tmp_path / "b").write_bytes(damaged.tobytes())
            try:
                assert decode(tmp_path / "b", 400).image.dtype == np.uint8
            except UnreadableImage as error:
                assert str(error)


def test_permission_denied(tmp_path, monkeypatch):
    photograph().save(tmp_path / "a.png")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UnreadableImage, match=r"^permission denied$"):
        decode(tmp_path / "a.png")


def test_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 4799)
    photograph(60, 80).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="80x60 pixels, more than the limit of 4,799"):
        decode(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="more than the limit"):
        read_size(tmp_path / "a.png")


def test_files_of_unknown_endings_are_looked_into_or_counted(tmp_path):
    for name, kind in {
        "a.jpg": "JPEG", "b.jpg?size=large": "JPEG", "c": "PNG", "sub/d.photo": "WEBP",
        "e.tif~": "TIFF", "f.txt": "PNG",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photograph(30, 40).save(tmp_path / name, kind)
    (tmp_path / "g.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (tmp_path / "h.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (tmp_path / "READ\nME").write_text("about")
    odd = OddEndings()
    keys = ["a.jpg", "b.jpg?size=large", "c", "e.tif~", "sub/d.photo"]
    assert list(list_images(tmp_path, odd)) == list(list_images(tmp_path)) == keys
    assert odd.skipped == {".heic": 2, ".txt": 1, "without an ending": 1}
    assert odd.taken == {".jpg?size=large": 1, "without an ending": 1, ".photo": 1, ".tif~": 1}
    taken, skipped = odd.told()
    assert taken.startswith("4 files of other endings are images by their content: 1 ")
    assert skipped.startswith("4 files are of no format that is read and are skipped: 2 .heic, 1 ")
    assert all(decode(tmp_path / key).image_size == (30, 40) for key in keys)

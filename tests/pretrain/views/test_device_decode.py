"""Decoding on the device: the workers' batches, whatever lies in the folder."""

import io
import shutil

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from data.errors import UserError
from data.images.crop import crop_resize
from data.images.decode import decode, open_image
from data.images.listing import list_images
from pretrain.trainer import train
from pretrain.views import device_decode
from pretrain.views.device_decode import DeviceDecoder, cut_views
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe
from tests.pretrain.runs import losses, tiny
from tests.pretrain.views.test_loader import assert_same, batches

CPU = torch.device("cpu")
RECIPE = ViewRecipe(views=2, image_size=48)


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


def damaged(file):
    """Make the first Huffman table impossible; the header stays as it is."""
    at = file.index(b"\xff\xc4")
    return file[: at + 5] + b"\xff" * 16 + file[at + 21 :]


CHELSEA = Image.fromarray(skimage.data.chelsea()).resize((150, 110))
COFFEE = Image.fromarray(skimage.data.coffee()).resize((131, 97))
PLAIN = {
    "420.jpg": jpeg(CHELSEA),
    "422.jpg": jpeg(CHELSEA, subsampling="4:2:2"),
    "444.jpg": jpeg(COFFEE, subsampling="4:4:4"),
    "odd.jpg": jpeg(COFFEE),
}
OTHERS = {
    "cmyk.jpg": jpeg(CHELSEA.convert("CMYK")),
    "gray.jpg": jpeg(CHELSEA.convert("L")),
    "png.jpg": None,  # below
    "progressive.jpg": jpeg(CHELSEA, progressive=True),
    "rgb.jpg": jpeg(CHELSEA, keep_rgb=True),
    "trailing.jpg": jpeg(CHELSEA) + b"\0",
    "turned.jpg": jpeg(CHELSEA, **turned()),
}
_png = io.BytesIO()
CHELSEA.save(_png, "PNG")
OTHERS["png.jpg"] = _png.getvalue()


def folder(path, files):
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """How many files each call of the device's decoder gets."""
    calls, theirs = [], device_decode.decode_jpeg

    def decode_jpeg(files, *arguments):
        calls.append(len(files))
        return theirs(files, *arguments)

    monkeypatch.setattr(device_decode, "decode_jpeg", decode_jpeg)
    return calls


def load(images, decode_on, masks=None, epoch=0, start_step=0, **changes):
    settings = {"recipe": RECIPE, "batch_size": 4, "seed": 5, **changes}
    loader = build_loader(images, masks, decode_on=decode_on, **settings)
    loader.set_epoch(epoch, start_step)
    return batches(loader)


def assert_nearly_same(ours, theirs, mean=0.2, most=1):
    """All is the same but for the rounding of the crops."""
    for a, b in zip(ours, theirs, strict=True):
        difference = (a["image"].cpu().int() - b["image"].int()).abs()
        assert difference.max() <= most and difference.float().mean() < mean
        assert a["image"].dtype == torch.uint8
    assert_same(*([{**batch, "image": None} for batch in run] for run in (ours, theirs)))


# ---- what the workers keep ----


@pytest.mark.parametrize("name", PLAIN)
def test_plain_jpegs_are_kept_as_they_are(tmp_path, name):
    path = folder(tmp_path / "images", PLAIN) / name
    image = open_image(path)
    assert image.jpeg().dtype == np.uint8 and image.jpeg().tobytes() == PLAIN[name]
    assert image.size == decode(path).image.shape[:2]
    assert image.decode(2)[0].shape[0] == -(-image.size[0] // 2)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_decoded(tmp_path, name):
    path = folder(tmp_path / "images", OTHERS) / name
    image = open_image(path)
    assert image.jpeg() is None
    assert np.array_equal(image.decode()[0], decode(path).image)


# ---- batches ----


def test_views_differ_from_the_cpu_s_by_rounding():
    image = np.array(CHELSEA)
    boxes = [(0, 0, 110, 150), (3, 5, 48, 48), (10, 20, 31, 77), (109, 149, 1, 1)]
    ours = cut_views(torch.from_numpy(image).permute(2, 0, 1), boxes, 48).numpy()
    theirs = np.stack([crop_resize(image, box, 48) for box in boxes])
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.array_equal(ours[1], theirs[1])  # cut, and not resized


def test_batches_are_the_workers(photographs, decoded):
    options = {
        "masks": photographs.masks,
        "paste": PasteSettings(paste_probability=0.7, blend="mix"),
    }
    ours = load(photographs.images, CPU, labels=np.arange(12), **options)
    assert decoded == [1, 2, 3, 3]  # the first to see that it works; four images were reduced
    assert_nearly_same(ours, load(photographs.images, None, labels=np.arange(12), **options))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_of_cuda_are_the_workers_but_for_chroma(photographs):
    options = {"masks": photographs.masks, "paste": PasteSettings(paste_probability=0.7)}
    ours = load(photographs.images, torch.device("cuda"), pin_memory=True, workers=1, **options)
    assert ours[0]["image"].is_cuda
    theirs = load(photographs.images, None, **options)
    assert_nearly_same(ours, theirs, mean=3, most=255)


def test_mixed_kinds_of_files_make_one_batch(tmp_path, decoded):
    images = folder(tmp_path / "images", PLAIN | OTHERS)
    options = {"batch_size": 11, "recipe": ViewRecipe(image_size=64)}
    ours, theirs = load(images, CPU, **options), load(images, None, **options)
    assert decoded == [1, len(PLAIN)]
    assert_nearly_same(ours, theirs)


def test_a_batch_without_a_plain_jpeg(tmp_path, decoded):
    images = folder(tmp_path / "images", OTHERS)
    assert_same(load(images, CPU), load(images, None))
    assert decoded == [1]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_depend_neither_on_workers_nor_on_the_start(tmp_path, workers):
    images = folder(tmp_path / "images", PLAIN | OTHERS)
    whole = load(images, CPU, epoch=3, batch_size=3)
    rest = load(images, CPU, epoch=3, batch_size=3, start_step=1, workers=workers)
    assert len(rest) == 2
    assert_same(whole[1:], rest)


# ---- what cannot be decoded ----


@pytest.mark.parametrize("workers", [0, 1])
def test_undecodable_images_are_replaced_counted_and_named(photographs, tmp_path, workers):
    images = tmp_path / "images"
    shutil.copytree(photographs.images, images)
    keys = list_images(images)
    truncated, broken = images / keys[2], images / keys[7]
    truncated.write_bytes(truncated.read_bytes()[:-500])  # seen by the worker
    broken.write_bytes(damaged(broken.read_bytes()))  # seen by the device alone
    assert open_image(broken).jpeg() is not None
    (images / keys[9]).unlink()
    options = {
        "masks": photographs.masks,
        "paste": PasteSettings(),
        "workers": workers,
        "keys": keys,
        "labels": np.arange(12),
    }
    ours, theirs = load(images, CPU, **options), load(images, None, **options)
    assert_nearly_same(ours, theirs)
    reasons = {reason for batch in ours for reason in batch["replaced"]}
    assert {reason.partition(":")[0] for reason in reasons} == {keys[2], keys[7], keys[9]}
    assert f"{keys[7]}: broken data stream when reading image file" in reasons


def test_what_the_device_alone_cannot_decode_is_decoded_by_the_workers_code(tmp_path, monkeypatch):
    images = folder(tmp_path / "images", PLAIN)
    theirs = load(images, None)
    whole = device_decode.decode_jpeg

    def picky(files, *arguments):
        if any(len(file) == len(PLAIN["422.jpg"]) for file in files):
            raise RuntimeError("Unknown chroma subsampling")
        return whole(files, *arguments)

    monkeypatch.setattr(device_decode, "decode_jpeg", picky)
    (ours,) = load(images, CPU)
    assert_nearly_same([ours], theirs)
    assert ours["replaced"] == []
    row = ours["index"].tolist().index(list_images(images).index("422.jpg"))
    assert torch.equal(ours["image"][row], theirs[0]["image"][row])


def test_an_image_of_another_size_than_its_header_s_is_not_cut(tmp_path, monkeypatch):
    images = folder(tmp_path / "images", PLAIN)
    whole = device_decode.decode_jpeg
    smaller = lambda *arguments: [image[:, :50, :50] for image in whole(*arguments)]  # noqa: E731
    monkeypatch.setattr(device_decode, "decode_jpeg", smaller)
    assert_same(load(images, CPU), load(images, None))


def test_nothing_but_damaged_images_ends_with_a_sentence(tmp_path):
    files = {f"{n}.jpg": damaged(PLAIN["420.jpg"]) for n in range(4)}
    with pytest.raises(UserError, match=r"100 images in a row .* cannot be read.*broken data"):
        load(folder(tmp_path / "images", files), CPU)


def test_a_full_device_is_not_taken_for_a_bad_file(tmp_path, monkeypatch):
    images = folder(tmp_path / "images", PLAIN)
    loader = build_loader(images, recipe=RECIPE, batch_size=4, decode_on=CPU)

    def full(*arguments):
        raise RuntimeError("Error while decoding JPEG images: CUDA out of memory.")

    monkeypatch.setattr(device_decode, "decode_jpeg", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(iter(loader))


def test_a_device_without_a_decoder_is_refused_in_a_sentence(monkeypatch):
    with pytest.raises(UserError, match=r"decode is 'device'.* on meta \(only .*'workers'\.$"):
        DeviceDecoder(None, torch.device("meta"))

    def absent(*arguments):
        raise RuntimeError("torchvision not compiled with nvJPEG support\nException raised from")

    monkeypatch.setattr(device_decode, "decode_jpeg", absent)
    with pytest.raises(UserError, match=r"on cuda:1 \(torchvision not .* support\); set it to"):
        DeviceDecoder(None, torch.device("cuda", 1))


# ---- runs ----


def test_runs_are_equal_and_resume_refuses_another_decoder(photographs, tmp_path):
    settings = tiny(photographs, decode="device", image_size=64, epochs=1)
    train(settings, tmp_path / "run")
    train(settings.model_copy(update={"workers": 1}), tmp_path / "again")
    assert losses(tmp_path / "run") == losses(tmp_path / "again")
    assert len(losses(tmp_path / "run")) == 3
    with pytest.raises(UserError, match="decode = 'device', not 'workers'"):
        train(tiny(photographs, image_size=64, epochs=1), tmp_path / "run", resume=True)

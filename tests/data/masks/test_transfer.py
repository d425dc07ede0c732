"""Masks travel as PNG files, out of shards and into them, unchanged."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from data.keys import Keys
from data.masks import transfer
from data.masks.format import ChunkEncoder, ShardWriter, Status, shard_name
from data.masks.index import load_index
from data.masks.read import MaskShards
from data.masks.transfer import ImportSettings, export_masks
from data.masks.verify import verify
from data.options import build, option_name


@pytest.fixture
def images(tmp_path):
    """A folder of images, 60 x 40."""
    folder = tmp_path / "images"
    for name in ("a.jpg", "b/c.JPEG", "b/d e.png", os.fsdecode(b"\xff\n.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            Image.new("RGB", (60, 40), "red").save(file, "PNG")
    return folder


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(array).save(file, "PNG")


def import_masks(folder, out, images, overwrite=False, **options):
    settings = build(ImportSettings, {"images": images, **options}, label=option_name)
    return transfer.import_masks(folder, out, settings, overwrite)


def a_mask(seed=0, shape=(40, 60)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# Out --------------------------------------------------------------------------------------------


def test_export_and_import_again(tmp_path, write_shards, images):
    keys = [*("a.jpg", "b/c.JPEG", "b/d e.png"), os.fsdecode(b"\xff\n.png")]
    masks = {key: a_mask(i) for i, key in enumerate(keys)}
    write_shards(tmp_path / "out", masks, canvas=60)
    shards = MaskShards(tmp_path / "out")
    assert export_masks(shards, tmp_path / "png") == 4
    for key, mask in masks.items():
        with Image.open(tmp_path / "png" / (key + ".png")) as image:
            assert image.mode == "L" and np.array_equal(np.asarray(image), mask)
    again = import_masks(tmp_path / "png", tmp_path / "again", images, max_side=60, shard_size=3)
    assert len(again.shards) == 2 and again.method == "import"
    for key, mask in masks.items():
        assert np.array_equal(again.read(key), mask)
        assert again.image_size(key) == (40, 60)
    assert verify(tmp_path / "again", images).sound


def test_full_size_is_bilinear(tmp_path, write_shards):
    mask = a_mask(shape=(20, 30))
    write_shards(tmp_path / "out", {"a.jpg": mask, "b.jpg": "empty file"})
    assert export_masks(MaskShards(tmp_path / "out"), tmp_path / "png", full_size=True) == 1
    exported = np.asarray(Image.open(tmp_path / "png" / "a.jpg.png"))
    assert np.array_equal(exported, cv2.resize(mask, (60, 40), interpolation=cv2.INTER_LINEAR))
    assert os.listdir(tmp_path / "png") == ["a.jpg.png"]


def test_nothing_is_overwritten_unasked(tmp_path, write_shards):
    write_shards(tmp_path / "out", {"a.jpg": a_mask(shape=(9, 9)), "b.jpg": a_mask(1, (9, 9))})
    save(tmp_path / "png" / "b.jpg.png", a_mask(2))
    before = (tmp_path / "png" / "b.jpg.png").read_bytes()
    with pytest.raises(UserError, match=r"b.jpg.png' is there already"):
        export_masks(MaskShards(tmp_path / "out"), tmp_path / "png")
    assert os.listdir(tmp_path / "png") == ["b.jpg.png"]  # not even the first
    assert (tmp_path / "png" / "b.jpg.png").read_bytes() == before
    assert export_masks(MaskShards(tmp_path / "out"), tmp_path / "png", overwrite=True) == 2


def test_export_follows_no_link(tmp_path, write_shards):
    masks = {"a.jpg": a_mask(shape=(9, 9)), "b/c/d.jpg": a_mask(1, (9, 9))}
    write_shards(tmp_path / "out", masks)
    png, elsewhere = tmp_path / "png", tmp_path / "elsewhere"
    png.mkdir()
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    (png / "a.jpg.png").symlink_to(elsewhere / "kept")
    (png / ".export.01234567.tmp").symlink_to(elsewhere)
    export_masks(MaskShards(tmp_path / "out"), png, overwrite=True)
    assert sorted(os.listdir(png)) == ["a.jpg.png", "b"]
    assert np.array_equal(np.asarray(Image.open(png / "a.jpg.png")), masks["a.jpg"])
    (png / "b" / "c" / "d.jpg.png").unlink()
    (png / "b" / "c").rmdir()
    (png / "b" / "c").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"b/c' is a link, which is not followed"):
        export_masks(MaskShards(tmp_path / "out"), png, overwrite=True)
    assert os.listdir(elsewhere) == ["kept"] and (elsewhere / "kept").read_text() == "kept"


def test_a_full_disk_leaves_no_half_of_a_picture(tmp_path, write_shards, monkeypatch):
    write_shards(tmp_path / "out", {"a.jpg": a_mask(shape=(9, 9))})
    save(tmp_path / "png" / "a.jpg.png", a_mask(2))
    before = (tmp_path / "png" / "a.jpg.png").read_bytes()

    def fill(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", fill)
    with pytest.raises(OSError, match="No space"):
        export_masks(MaskShards(tmp_path / "out"), tmp_path / "png", overwrite=True)
    assert os.listdir(tmp_path / "png") == ["a.jpg.png"]
    assert (tmp_path / "png" / "a.jpg.png").read_bytes() == before


@pytest.mark.parametrize("key", ["../../evil", "/etc/evil", "a/../../evil", "a//b", "./a", ".."])
def test_keys_that_lead_out_of_the_folder_are_refused(tmp_path, key):
    attributes = {"method": "x", "parameters": {}, "software": {}, "listing_digest": ""}
    keys, path = Keys([key]), tmp_path / "out" / shard_name(0)
    with ShardWriter(path, 0, 1, keys, 8, "zstd", attributes) as writer:
        writer.write(0, ChunkEncoder(8).encode(a_mask(shape=(8, 8))), (8, 8), (8, 8))
        writer.commit()
    with pytest.raises(UserError, match="nothing was exported"):
        export_masks(MaskShards(tmp_path / "out"), tmp_path / "png")
    assert sorted(os.listdir(tmp_path)) == ["out"]


# In ---------------------------------------------------------------------------------------------


def test_every_image_gets_a_row(tmp_path, images):
    masks = tmp_path / "masks"
    save(masks / "a.png", a_mask())  # the extension replaced
    save(masks / "b" / "c.JPEG.png", a_mask(shape=(60, 40)))  # turned
    (masks / "b" / "d e.png").write_bytes(b"hello")
    (images / "broken.jpg").write_bytes(b"")
    shards = import_masks(masks, tmp_path / "out", images, method="tool", max_side=30)
    found = {key: (shards.status(key), shards.error(key)) for key in shards.keys}
    assert found == {
        "a.jpg": (Status.OK, ""),
        "b/c.JPEG": (Status.FAILED, "its mask: it is 40 x 60, its image 60 x 40, another shape"),
        "b/d e.png": (Status.FAILED, "its mask: not an image of a known format"),
        "broken.jpg": (Status.UNREADABLE, "empty file"),
        os.fsdecode(b"\xff\n.png"): (Status.FAILED, "its mask: there is no image of its name"),
    }
    assert shards.method == "tool" and shards.parameters == {"max_side": 30}
    small = cv2.resize(a_mask(), (30, 20), interpolation=cv2.INTER_AREA)
    assert np.array_equal(shards.read("a.jpg"), small)
    assert verify(tmp_path / "out", images).sound


def test_masks_with_endings_in_any_case_of_letters(tmp_path, images):
    kinds = {"a.TIF": "TIFF", "b/c.BMP": "BMP", "b/d e.gif": "GIF"}
    for name, kind in kinds.items():
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(a_mask()).save(path, kind)
    save(tmp_path / "masks" / os.fsdecode(b"\xff\n.Png"), a_mask())
    shards = import_masks(tmp_path / "masks", tmp_path / "out", images)
    assert [shards.error(key) for key in shards.keys] == [""] * 4
    assert all(np.array_equal(shards.read(key), a_mask()) for key in shards.keys)
    save(tmp_path / "masks" / "a.PNG", a_mask(1))  # of several the one that loses nothing
    save(tmp_path / "masks" / "a.x.png", a_mask(2))
    shards = import_masks(tmp_path / "masks", tmp_path / "again", images)
    assert np.array_equal(shards.read("a.jpg"), a_mask(1))


def test_without_a_cap_masks_keep_their_size(tmp_path, images):
    save(tmp_path / "masks" / "a.png", a_mask())
    shards = import_masks(tmp_path / "masks", tmp_path / "out", images, max_side=0, shard_size=2)
    assert np.array_equal(shards.read("a.jpg"), a_mask())


def test_masks_under_decomposed_names(tmp_path, images):
    Image.new("RGB", (60, 40)).save(images / "Z\u00fcrich.jpg")
    save(tmp_path / "masks" / "Zu\u0308rich.png", a_mask())
    shards = import_masks(tmp_path / "masks", tmp_path / "out", images)
    assert np.array_equal(shards.read("Z\u00fcrich.jpg"), a_mask())


def test_a_small_mask_is_not_enlarged(tmp_path, images):
    save(tmp_path / "masks" / "a.png", a_mask(shape=(20, 30)))
    shards = import_masks(tmp_path / "masks", tmp_path / "out", images)
    assert np.array_equal(shards.read("a.jpg"), a_mask(shape=(20, 30)))


def test_a_flat_mask_is_flat(tmp_path, images):
    save(tmp_path / "masks" / "a.png", np.zeros((40, 60), np.uint8))
    assert import_masks(tmp_path / "masks", tmp_path / "out", images).status("a.jpg") is Status.FLAT


def test_a_mask_of_two_images_is_refused(tmp_path, images):
    with open(images / "a.png", "wb") as file:
        Image.new("RGB", (60, 40)).save(file, "PNG")
    save(tmp_path / "masks" / "a.png", a_mask())
    with pytest.raises(UserError, match=r"'a.png' could be of 'a.jpg' or of 'a.png'"):
        import_masks(tmp_path / "masks", tmp_path / "out", images)
    save(tmp_path / "masks" / "a.png.png", a_mask(1))
    shards = import_masks(tmp_path / "masks", tmp_path / "out", images)
    assert np.array_equal(shards.read("a.jpg"), a_mask())
    assert np.array_equal(shards.read("a.png"), a_mask(1))


def test_no_mask_at_all_is_a_sentence(tmp_path, images):
    save(tmp_path / "masks" / "other.png", a_mask())
    with pytest.raises(UserError, match=r"no mask in .* has the name of an image"):
        import_masks(tmp_path / "masks", tmp_path / "out", images)
    assert not (tmp_path / "out").exists()


def test_shards_that_are_there_stay_unless_asked(tmp_path, images, write_shards, masks):
    save(tmp_path / "masks" / "a.png", a_mask())
    write_shards(tmp_path / "out", masks, size=3)
    with pytest.raises(UserError, match=r"there are mask shards in .* already"):
        import_masks(tmp_path / "masks", tmp_path / "out", images)
    assert len(MaskShards(tmp_path / "out")) == len(masks)
    import_masks(tmp_path / "masks", tmp_path / "out", images, overwrite=True)
    assert len(MaskShards(tmp_path / "out")) == 4
    assert verify(tmp_path / "out", images).sound


def test_the_old_shards_stay_until_the_new_ones_are_complete(
    tmp_path, images, write_shards, masks, monkeypatch
):
    save(tmp_path / "masks" / "a.png", a_mask())
    out = tmp_path / "out"
    write_shards(out, masks, size=3)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    arguments = (tmp_path / "masks", out, images)
    for name, value in (("max_side", 65536), ("max_side", -1), ("shard_size", 0)):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is {value};"):
            import_masks(*arguments, overwrite=True, **{name: value})

    def interrupt(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.masks.transfer.read_mask", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_masks(*arguments, overwrite=True, shard_size=2)
        with pytest.raises(KeyboardInterrupt):
            import_masks(*arguments[:1], tmp_path / "new", images)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()
    import_masks(*arguments, overwrite=True, shard_size=2)
    assert sorted(os.listdir(out)) == ["index.h5", "shard-00000.h5", "shard-00001.h5"]
    assert load_index(out) is not None  # it went along


_KILLED = """
import os, sys
import data.masks.transfer as transfer
calls, stop, where = 0, int(sys.argv[1]), sys.argv[2]
def killed(function):
    def wrapped(*arguments):
        global calls
        folder, name = os.path.split(str(arguments[-1]))
        if where == "read_mask" or ("shard" in name and ".tmp" not in folder):
            if calls == stop:
                os._exit(9)
            calls += 1
        return function(*arguments)
    return wrapped
if where == "read_mask":
    transfer.read_mask = killed(transfer.read_mask)
else:
    os.replace = killed(os.replace)
settings = transfer.ImportSettings(images=sys.argv[5], shard_size=1)
transfer.import_masks(*sys.argv[3:5], settings, overwrite=sys.argv[6] == "True")
"""


def contents(folder):
    with MaskShards(folder) as shards:
        return {
            key: (shards.read(key).tobytes(), shards.error(key), shards.image_size(key))
            for key in shards.keys
        }


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("where", "stop"), [("read_mask", 2), *(("replace", n) for n in range(4))])
def test_killed_anywhere_the_same_command_goes_on(tmp_path, images, where, stop, overwrite):
    for number, name in enumerate(("a.png", "b/c.png", "b/d e.png", os.fsdecode(b"\xff\n.png"))):
        save(tmp_path / "masks" / name, a_mask(number))
        save(tmp_path / "others" / name, a_mask(9 + number))
    out, arguments = tmp_path / "out", (tmp_path / "masks", tmp_path / "out", images)
    if overwrite:
        import_masks(tmp_path / "others", out, images, shard_size=1)
    before = contents(out) if overwrite else None
    command = [sys.executable, "-c", _KILLED, str(stop), where, *arguments, str(overwrite)]
    assert subprocess.run(command).returncode == 9
    if overwrite and (where == "read_mask" or stop == 0):
        assert contents(out) == before
    else:
        try:
            assert not verify(out).sound
        except UserError as error:
            assert "there are no mask shards" in error.message
    made = {path: path.stat().st_mtime_ns for path in out.rglob("shard-*.h5")}
    import_masks(*arguments, shard_size=1, overwrite=overwrite)
    import_masks(tmp_path / "masks", tmp_path / "whole", images, shard_size=1)
    assert contents(out) == contents(tmp_path / "whole") and verify(out, images).sound
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole"))
    times = [path.stat().st_mtime_ns for path in out.glob("shard-*.h5")]
    assert len(set(times) & set(made.values())) == (2 if where == "read_mask" else 4)


def test_a_set_of_other_masks_is_another_set(tmp_path, images):
    """Of the same images by the same options, so that only their identity tells."""
    for number in (0, 1):
        save(tmp_path / f"masks{number}" / "a.png", a_mask(number))
        import_masks(tmp_path / f"masks{number}", tmp_path / f"{number}", images, shard_size=2)
    (tmp_path / "0" / "index.h5").unlink()
    os.replace(tmp_path / "1" / shard_name(1), tmp_path / "0" / shard_name(1))
    assert "they differ in set id" in verify(tmp_path / "0").problems[0]
    with pytest.raises(UserError, match="they differ in set id"):
        MaskShards(tmp_path / "0")


def test_the_same_command_tries_anew_what_had_no_mask(tmp_path, images):
    folder, out = tmp_path / "masks", tmp_path / "out"
    save(folder / "a.png", a_mask())
    (folder / "b").mkdir()
    (folder / "b" / "c.png").symlink_to("later")  # cannot be read then
    (images / "broken.jpg").touch()

    def run(**options):
        return import_masks(folder, out, images, shard_size=2, **options)

    def statuses(shards):
        return [int(shards.status(key)) for key in ("a.jpg", "b/c.JPEG", "b/d e.png", "broken.jpg")]

    assert statuses(run()) == [Status.OK, Status.FAILED, Status.FAILED, Status.UNREADABLE]
    kept = (out / shard_name(0)).stat().st_ino
    assert statuses(run()) == [Status.OK, Status.FAILED, Status.FAILED, Status.UNREADABLE]
    assert (out / shard_name(0)).stat().st_ino == kept  # nothing has changed, nothing was made
    save(folder / "b" / "later", a_mask(1))
    save(folder / "b" / "d e.png", a_mask(2))  # was missing
    Image.new("RGB", (60, 40)).save(images / "broken.jpg")
    save(folder / "broken.png", a_mask(3))
    shards = run()
    assert statuses(shards) == [Status.OK] * 4 and verify(out, images).sound
    for number, key in enumerate(("a.jpg", "b/c.JPEG", "b/d e.png", "broken.jpg")):
        assert np.array_equal(shards.read(key), a_mask(number))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    save(folder / "a.png", a_mask(9))  # a mask that is there is not replaced unasked
    with pytest.raises(UserError, match=r"there are mask shards with other masks in .* already"):
        run()
    with pytest.raises(UserError, match="already"):
        run(max_side=30)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert np.array_equal(run(overwrite=True).read("a.jpg"), a_mask(9))


_LITTLE_MEMORY = """
import resource, sys
import dilo
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
dilo.mask_shards()
"""


def test_a_cap_that_needs_more_memory_than_there_is(tmp_path, images):
    save(tmp_path / "masks" / "a.png", a_mask())
    arguments = ["import", tmp_path / "masks", tmp_path / "out", "--images", images]
    done = subprocess.run(
        [sys.executable, "-c", _LITTLE_MEMORY, *arguments, "--max-side", "60000"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "the memory is exhausted (" in done.stderr
    assert done.stderr.endswith("; use a smaller --max-side.\n")
    assert not (tmp_path / "out").exists()


def test_a_mask_of_very_few_pixels_has_its_images_shape_too(tmp_path, images):
    """A side may be a pixel off, by rounding; of 1 x 1 that would let any image pass."""
    shapes = {"a.jpg": (1, 1), "b/c.JPEG": (2, 3), "b/d e.png": (13, 20)}
    for key, shape in shapes.items():
        save(tmp_path / "masks" / (key + ".png"), a_mask(shape=shape))
    shards = import_masks(tmp_path / "masks", tmp_path / "out", images)
    assert shards.error("a.jpg") == "its mask: it is 1 x 1, its image 60 x 40, another shape"
    assert [shards.status(key) for key in list(shapes)[1:]] == [Status.OK, Status.OK]

"""`probe saliency`: scores, what it names, and the authors' own figures."""

import json

import cv2
import numpy as np
import pytest

from evaluate import saliency
from evaluate.saliency import score_image


def blob(height=40, width=60, centre=(20, 30), radius=11):
    y, x = np.ogrid[:height, :width]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def soft(truth, sigma=4):
    return cv2.GaussianBlur(truth.astype(np.uint8) * 255, (0, 0), sigma)


def test_perfect_map_has_perfect_scores():
    truth = blob()
    scores = score_image(truth.astype(np.uint8) * 255, truth)
    assert scores["mae"] == 0
    assert scores["weighted_f"] == pytest.approx(1)
    assert scores["s_measure"] == pytest.approx(1)
    np.testing.assert_array_equal(scores["precision"][1:], 1)
    np.testing.assert_array_equal(scores["recall"], 1)


def test_mae_is_the_plain_mean():
    truth, saliency = blob(), soft(blob())
    stretched = (saliency / 1.0 - saliency.min()) / np.ptp(saliency)
    plain = np.abs(stretched - truth).mean()
    assert score_image(saliency, truth, structure=False)["mae"] == pytest.approx(plain, abs=1 / 510)


def test_structure_measures_are_those_of_pysodmetrics():
    from py_sod_metrics import Emeasure, Smeasure, WeightedFmeasure

    truth, saliency = blob(), soft(blob(centre=(18, 33)))
    saliency[0, 0], saliency[20, 33] = 0, 255
    ours = score_image(saliency, truth)
    as_picture = truth.astype(np.uint8) * 255
    measures = [WeightedFmeasure(), Smeasure(), Emeasure()]
    for measure in measures:
        measure.step(saliency, as_picture)
    assert ours["weighted_f"] == pytest.approx(measures[0].get_results()["wfm"])
    assert ours["s_measure"] == pytest.approx(measures[1].get_results()["sm"])
    np.testing.assert_allclose(ours["e_curve"], measures[2].get_results()["em"]["curve"])


def test_table_json_and_plots_of_shards_and_pictures(tmp_path, probe, write_shard, write_pictures):
    truths = {f"{i}.png": blob(centre=(14 + 3 * i, 20 + 5 * i)) for i in range(4)}
    as_pictures = {name: truth.astype(np.uint8) * 255 for name, truth in truths.items()}
    truth_folder = write_pictures(tmp_path / "truth", as_pictures)
    pictures = write_pictures(tmp_path / "pictures", {n: soft(t) for n, t in truths.items()})
    photographs = write_pictures(
        tmp_path / "photographs",
        {n: np.repeat(soft(t)[..., None], 3, 2) for n, t in truths.items()},
    )
    halves = {n: cv2.resize(soft(t), (30, 20)) for n, t in truths.items()}
    shards = write_shard(tmp_path / "shards", halves, dict.fromkeys(truths, (40, 60)))

    out = tmp_path / "out"
    result = probe(
        "saliency", pictures, shards, truth_folder, "--images", photographs, "--out", out,
        "--jobs", 1,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert "max F" in lines[0] and "MAE" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["pictures", "shards"]
    report = json.loads((out / "results.json").read_text())
    first, second = report["masks"]
    assert (first["images"], second["images"]) == (4, 4)
    assert second["method"] == "rbd"
    assert first["max_f"] == pytest.approx(second["max_f"], abs=0.02)  # half size costs little
    assert f"{first['max_f']:.4f}" in result.stdout
    assert len(first["precision"]) == 256
    for name in ("precision-recall.png", "examples.png"):
        assert cv2.imread(str(out / name)).size
    assert not list(tmp_path.glob(".out*"))


def test_every_pair_that_does_not_score_is_named(tmp_path, probe, write_shard, write_pictures):
    ok = blob().astype(np.uint8) * 255
    truth_folder = write_pictures(
        tmp_path / "truth",
        {"a.png": ok, "empty.png": ok * 0, "lonely.png": ok, "size.png": ok, "bad.png": ok},
    )
    shards = write_shard(
        tmp_path / "shards",
        {
            "a.jpg": ok,
            "empty.jpg": ok,
            "size.jpg": ok,
            "bad.jpg": "truncated file",
            "other.jpg": ok,
        },
        {"size.jpg": (41, 60)},
    )
    result = probe("saliency", shards, truth_folder, "--jobs", 1, "--out", tmp_path / "out")
    (masks,) = json.loads((tmp_path / "out" / "results.json").read_text())["masks"]
    assert masks["images"] == 1
    reasons = masks["left_out"]
    assert reasons.keys() == {"empty", "lonely", "size", "bad", "other"}
    assert "ground truth is empty" in reasons["empty"]
    assert reasons["lonely"] == "has a ground truth and no mask"
    assert reasons["size"] == "image is 60x41, its ground truth 60x40"
    assert "truncated file" in reasons["bad"]
    assert reasons["other"] == "has a mask and no ground truth"
    for name in reasons:
        assert name in result.stderr


def test_picture_of_another_size_is_scaled_on_demand_alone(tmp_path, probe, write_pictures):
    truth = blob().astype(np.uint8) * 255
    truths = write_pictures(tmp_path / "truth", {"a.png": truth, "b.png": truth})
    masks = write_pictures(tmp_path / "masks", {"a.png": truth, "b.png": truth[::2, ::2]})
    arguments = ("saliency", masks, truths, "--quick", "--jobs", 1, "--json")
    (plain,) = json.loads(probe(*arguments, "--out", tmp_path / "plain").stdout)["masks"]
    assert plain["images"] == 1
    assert plain["left_out"] == {"b": "mask is 30x20, its ground truth 60x40"}
    result = probe(*arguments, "--resize", "--out", tmp_path / "resized")
    assert json.loads(result.stdout)["masks"][0]["images"] == 2


def test_constant_mask_counts_as_empty_and_is_named(tmp_path, probe, write_pictures):
    truth = blob().astype(np.uint8) * 255
    truths = write_pictures(tmp_path / "truth", {"a.png": truth, "b.png": truth})
    masks = write_pictures(tmp_path / "masks", {"a.png": truth, "b.png": truth * 0 + 9})
    out = tmp_path / "out"
    result = probe("saliency", masks, truths, "--jobs", 1, "--out", out, "--json")
    (found,) = json.loads(result.stdout)["masks"]
    assert found["constant_masks"] == ["b"]
    assert "constant mask" in result.stderr
    assert found["mae"] == pytest.approx((truth > 0).mean() / 2)


def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, probe, write_pictures):
    truth = blob().astype(np.uint8) * 255
    a = write_pictures(tmp_path / "a", {"x.png": truth})
    b = write_pictures(tmp_path / "b", {"y.png": truth})
    (tmp_path / "nothing").mkdir()
    out = tmp_path / "out"
    cases = {
        "no image in common": (a, b),
        "no mask shards": (tmp_path / "nothing", a),
        "there is no folder": (tmp_path / "missing", a),
        "name it once": (a, a, a),
    }
    for sentence, arguments in cases.items():
        result = probe("saliency", *arguments, "--out", out, code=2)
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_results_are_not_overwritten_unasked(tmp_path, probe, write_pictures):
    a = write_pictures(tmp_path / "a", {"x.png": blob().astype(np.uint8) * 255})
    b = write_pictures(tmp_path / "b", {"x.png": blob().astype(np.uint8) * 255})
    arguments = ("saliency", a, b, "--jobs", 1, "--out", tmp_path / "out")
    probe(*arguments)
    assert "--overwrite" in probe(*arguments, code=2).stderr
    probe(*arguments, "--overwrite")


def test_photographs_that_are_not_there_are_told_first(
    tmp_path, probe, write_pictures, monkeypatch
):
    masks = write_pictures(tmp_path / "m", {"a.png": np.full((9, 9), 200, np.uint8)})
    monkeypatch.setattr(saliency, "score", lambda *a, **o: pytest.fail("scored"))
    arguments = ("saliency", masks, masks, "--images", tmp_path / "typo", "--out", tmp_path / "out")
    assert "there is no folder" in probe(*arguments, code=2).stderr


def test_empty_file_in_the_place_of_a_mask(tmp_path, probe, write_pictures):
    pictures = {name: np.eye(9, dtype=np.uint8) * 255 for name in ("a.png", "b.png")}
    truth = write_pictures(tmp_path / "t", pictures)
    masks = write_pictures(tmp_path / "m", pictures)
    (masks / "b.png").write_bytes(b"")
    result = probe("saliency", masks, truth, "--quick", "--jobs", 1, "--out", tmp_path / "out")
    assert "b.png is no mask (empty file)" in result.stderr

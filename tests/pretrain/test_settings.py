"""Settings: the paper's defaults, one sentence for every mistake, and the published rows."""

import json
import tomllib
from pathlib import Path

import pytest

from data.errors import UserError
from data.options import parse_assignment, read_toml, to_toml
from data.run import flattened
from pretrain.methods import METHODS, load_method
from pretrain.settings import ROW_NOTES, Settings, build_settings, read_config
from pretrain.views.recipes import instdisc, moco_v2
from tests.pretrain.table1 import TABLE1, table1

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "configs" / "paper.toml"
ROWS = read_toml(PAPER)
PUBLISHED = [row for row in ROWS if row.startswith(("table", "moco"))]
POOL = {"background_pool": "pool"}  # a path that only the user knows


def test_defaults_are_the_papers():
    s = build_settings({})
    assert (s.method.name, s.arch, s.method.dim, s.method.temperature, s.method.negatives) == (
        "instdisc",
        "resnet50",
        128,
        0.07,
        4096,
    )
    assert (s.epochs, s.batch_size, s.lr, s.momentum, s.weight_decay) == (200, 256, 0.03, 0.9, 1e-4)
    assert [m * s.epochs for m in s.milestones] == [120, 160]
    assert (s.paste_probability, s.background, s.blend_sigma) == (0.5, "grayscale", 5)
    assert s.scaled_lr() == 0.03
    assert s.view_recipe() == instdisc()
    assert build_settings({"method": "moco"}).method.negatives == 65536


def test_recipes_and_their_switches():
    assert build_settings({"method": "moco"}).view_recipe() == instdisc().model_copy(
        update={"views": 2}
    )
    v2 = {"method": "moco", "recipe": "moco-v2"}
    assert build_settings(v2).view_recipe() == moco_v2()
    changed = build_settings(v2, {"blur": 0.0, "image_size": 64}).view_recipe()
    assert (changed.blur, changed.image_size, changed.hue) == (0, 64, 0.1)


@pytest.mark.parametrize("method", ["instdisc", "cvsa", "codo"])
def test_a_pool_says_what_is_pasted_on(method):
    given = {"images": "photos", "masks": "masks", "method": method}
    for pool, background in (("photos", "texture"), ("crops.h5", "imagenet")):
        assert build_settings(given, {"background_pool": pool}).background == background
    own = build_settings(given, {"background": "imagenet"}, {"background_pool": "photos"})
    assert own.background == "imagenet"


@pytest.mark.parametrize("row", TABLE1)
def test_table_1_by_switches(row):
    """The switches that docs/pretrain.md gives for the paper's Table 1."""
    text = (ROOT / "docs" / "pretrain.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"| {row.replace('_', ' ')}"))
    switches = line.split("`")[1].split() if "`" in line else []
    assert all(switch.startswith("--set=") for switch in switches)
    settings = build_settings(
        *(parse_assignment(s.removeprefix("--set="), Settings) for s in switches)
    )
    assert settings.view_recipe() == table1(row)


def test_later_layers_win():
    s = build_settings(
        {"epochs": 5, "lr": 1.0}, {"epochs": 6}, parse_assignment("epochs=7", Settings)
    )
    assert (s.epochs, s.lr) == (7, 1.0)


def test_linear_scaling_can_be_turned_off():
    assert build_settings({"batch_size": 64}).scaled_lr() == pytest.approx(0.03 / 4)
    assert build_settings({"batch_size": 64, "lr_batch": "fixed"}).scaled_lr() == 0.03


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("epochs=7", {"epochs": 7}),
        ("masks=3", {"masks": "3"}),
        ("background_pool=2026-11-24", {"background_pool": "2026-11-24"}),
        ('masks="3"', {"masks": "3"}),
        ("batch-size = 8", {"batch_size": 8}),
        ("arch=resnet18", {"arch": "resnet18"}),
        ("masks=a=b c", {"masks": "a=b c"}),
        ("milestones=[0.5, 30]", {"milestones": [0.5, 30]}),
        ("mlp=true", {"mlp": True}),
        ("method.temperature=0.2", {"method": {"temperature": 0.2}}),
        ('blend="mix"', {"blend": "mix"}),
    ],
)
def test_assignments(text, value):
    assert parse_assignment(text, Settings) == value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"imagesize": 3}, r"no setting 'imagesize'; did you mean 'image_size'\?$"),
        ({"xyzzy": 3}, "no setting 'xyzzy'; see `pretrain --settings`"),
        ({"arch": "resnet51"}, "arch is 'resnet51'; it should be 'alexnet', 'vgg16', 'resnet18'"),
        ({"epochs": 0}, "epochs is 0; it should be greater than or equal to 1"),
        ({"epochs": "many"}, "epochs is 'many'; it should be a valid integer"),
        (
            {"negatives": "none"},
            "negatives is 'none'; it should be a number .*, or 'all'",
        ),
        ({"lr": float("nan")}, "lr is nan"),
        ({"paste_probability": 2}, "paste_probability is 2"),
        ({"epochs": True}, "epochs is true, and no switch; give its value"),
        ({"negatives": False}, "negatives is false, and no switch"),
        ({"recipe": ["moco-v2"]}, r"recipe is \['moco-v2'\]; it should be a valid string"),
        ({"recipe": "moco-v3"}, "recipe is 'moco-v3'; choose one of instdisc, moco-v2"),
        ({"method": "moko"}, "the setting method is 'moko'; choose one of instdisc, moco"),
        ({"method": {"lr": 1}}, r"lr is no setting of the method; write it outside of \[method\]"),
        ({"method": {"temprature": 1}}, "no setting 'temprature'; did you mean 'temperature'"),
        ({"lr_batch": "free"}, "lr_batch is 'free'; it should be a number .*, or 'fixed'"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"blend_sigma": 1e12}, "blend_sigma is 1000000000000.0"),
        ({"scale": 0.5}, r"scale is 0.5; it should be a list of 2"),
        ({"scale": [0.2]}, r"scale is \[0.2\]; it should be a list of 2"),
        ({"blur_sigma": [1, 2, 3]}, r"blur_sigma is \[1, 2, 3\]; it should be a list of 2"),
        ({"milestones": 0.5}, r"milestones is 0.5; it should be a list, as \[0.6"),
        ({"images": "a\udcff"}, r"images is 'a\\udcff', which is not UTF-8; rename it"),
        (
            {"training": {"lr": 1}},
            r"no setting 'training'; the only table of settings is \[method\]",
        ),
        ({"scale": [0.5, 0.2]}, "scale is .* the smaller one first"),
        ({"scale": [0.5, 1.2]}, "at most 1"),
        ({"method": "moco", "negatives": "all"}, "give moco a queue length"),
        ({"method": "moco", "loss": "nce"}, "loss is 'nce', which is for instdisc"),
        ({"loss": "nce", "negatives": "all"}, "give a number"),
        ({"background": "texture"}, "background_pool is missing"),
        (
            POOL | {"background": "grayscale"},
            "background_pool is 'pool' and background is 'grayscale', which takes none",
        ),
        ({"workers": 100_000}, "workers is 100000; it should be less than or equal to 1024"),
        ({"weight_decay": 1e300}, "weight_decay is 1e\\+300"),
        ({"lr": 1e300}, "lr is 1e\\+300"),
        ({"blur_sigma": [0.1, 1e308]}, r"blur_sigma is .*1e\+308"),
        ({"head_norm": True}, "head_norm is true, .* set mlp = true"),
        ({"keep_checkpoints": 1}, "keep_checkpoints is 1"),
    ],
)
def test_mistakes_get_one_sentence(settings, words):
    with pytest.raises(UserError, match=words) as caught:
        build_settings(settings)
    assert "\n" not in caught.value.message


def test_unreadable_files(tmp_path):
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(UserError, match="is not TOML"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(UserError, match="name=value"):
        parse_assignment("epochs", Settings)


def test_toml_round_trip():
    s = build_settings({"images": 'ä "b" \\ \U0001f600', "milestones": [0.5, 30], "lr": 1e-7})
    assert build_settings(tomllib.loads(to_toml(s))) == s
    assert build_settings(json.loads(s.model_dump_json())) == s


def test_every_setting_is_described():
    for record in (Settings, *(load_method(name).Settings for name in METHODS)):
        assert all(field.description for field in record.model_fields.values())


def test_a_table_and_flat_names_are_the_same():
    table = {"method": {"name": "moco", "temperature": 0.2, "negatives": 8}}
    flat = {"method": "moco", "temperature": 0.2, "negatives": 8}
    assert build_settings(table) == build_settings(flat)
    assert build_settings(table, {"negatives": 16}).method.negatives == 16
    assert build_settings(flat, {"method": {"negatives": 16}}).method.negatives == 16


def test_an_old_record_of_a_run_has_the_defaults_of_all_methods():
    old = {"method": "moco", "negatives": 8, "loss": "softmax", "bank_momentum": 0.5}
    assert build_settings(old) == build_settings({"method": {"name": "moco", "negatives": 8}})


# ---- configs/ ----

TABLE3_HEADS = {"alexnet", "vgg16", "resnet18", "resnet50", "resnet50w2"}

ALLOWED = {  # what a row may change of the defaults
    "table2a": {"paste_probability"},
    "table2b": {"paste_probability"},
    "table2c": {"background", "background_pool"},
    "table2d": {"blend"},
    "table3": {"arch", "method.negatives", "paste_probability"},
    "moco": {"method.name", "method.negatives", "blend", "paste_probability"},
    "mocov2": {"method.name", "method.negatives", "blend", "paste_probability", "recipe",
               "method.mlp", "method.temperature", "schedule", "jitter", "hue", "blur",
               "gray_first"},
}  # fmt: skip


def row_settings(row):
    """Return a row's own settings, and the pool that it needs."""
    own = read_config(PAPER, row)
    return own, POOL if own.get("background", "grayscale") != "grayscale" else {}


def changed(own, *more):
    """Return the names of the settings that are not the defaults."""
    settings, defaults = flattened(build_settings(own, *more)), flattened(build_settings({}))
    others = {"method.loss", "method.bank_momentum", "method.shared_negatives"}
    names = {name for name, value in settings.items() if defaults.get(name) != value}
    return names - others - {"method.key_momentum", "method.background_negative"}  # of one alone


@pytest.mark.parametrize("row", PUBLISHED)
def test_a_row_differs_only_where_it_should(row):
    own, pool = row_settings(row)
    table = row.split("-")[0]
    assert changed(own, pool) <= ALLOWED[table]
    about = {"table2c": "background", "table2d": "blend", "table3": "arch"}.get(table)
    said_anyway = {"paste_probability", about}
    # no defaults but what a table is about
    assert flattened(own).keys() - said_anyway <= changed(own, pool)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_it_costs_and_how_to_run_it(row):
    notes = ROWS[row]
    assert notes.keys() >= ROW_NOTES
    assert f"--config configs/paper.toml --row {row}" in notes["command"]
    if row in PUBLISHED:
        assert notes["about"].startswith(("Table ", "MoCo rows"))
        assert "GPU-hours" in notes["cost"] and notes["expect"].endswith(" %")
        settings = build_settings(*row_settings(row))
        assert ("--masks" in notes["command"]) == (settings.paste_probability > 0)
        assert ("--background-pool" in notes["command"]) == (settings.background != "grayscale")


def test_every_row_is_there():
    names = set(PUBLISHED)
    assert len(names) == 38
    assert {f"table2a-{m}" for m in ("baseline", "gs", "mc", "rbd", "basnet")} <= names
    assert {f"table2b-paste{p}" for p in (20, 50, 80, 100)} <= names
    assert {f"table2c-{b}" for b in ("texture", "imagenet", "grayscale")} <= names
    assert {f"table2d-{b}" for b in ("none", "gaussian", "mix")} <= names
    for arch in TABLE3_HEADS - {"resnet50w2"}:
        assert {f"table3-{arch}-{m}" for m in ("baseline", "rbd", "basnet")} <= names
    assert {"table3-resnet50-k65536", "table3-resnet50w2-k65536"} <= names
    assert {"moco-baseline", "moco-rbd", "moco-basnet", "mocov2-baseline", "mocov2-basnet"} <= names


def test_rows_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"has rows; choose one by --row; its rows are table2a-"):
        read_config(PAPER)
    with pytest.raises(UserError, match=r"lacks; did you mean 'table2a-rbd'\?"):
        read_config(PAPER, "table2a-rdb")
    plain = tmp_path / "plain.toml"
    plain.write_text('lr = 0.1\n[method]\nname = "moco"\n')
    assert read_config(plain) == {"lr": 0.1, "method": {"name": "moco"}}
    with pytest.raises(UserError, match="lacks; leave out --row"):
        read_config(plain, "table2a-rbd")


def test_a_list_may_lack_its_brackets():
    given = parse_assignment("paste_coverage=0.05,0.9", Settings)
    assert given == parse_assignment("paste_coverage=[0.05, 0.9]", Settings)
    assert given == {"paste_coverage": [0.05, 0.9]}
    with pytest.raises(UserError, match="the smaller comes first"):
        build_settings({"images": "x"}, {"paste_coverage": [0.9, 0.1]})

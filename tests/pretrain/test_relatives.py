"""configs/relatives.toml: every row is a run that can be begun, and says what it is."""

import tomllib
from pathlib import Path

import pytest

from pretrain.methods import load_method
from pretrain.settings import ROW_NOTES, build_settings, read_config

RELATIVES = Path(__file__).resolve().parents[2] / "configs" / "relatives.toml"
ROWS = tomllib.loads(RELATIVES.read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_it_says(row, tmp_path):
    notes, own = ROWS[row], read_config(RELATIVES, row)
    assert notes["about"] and f"--config configs/relatives.toml --row {row}" in notes["command"]
    words = notes["command"].split()
    settings = build_settings(
        own, {"background_pool": str(tmp_path)} if "pool" in str(words) else {}
    )
    paste = settings.paste_settings()
    wants = bool({"saliency", "boxes"} & set(load_method(settings.method.name).wants))
    needs = wants or settings.crop == "object" or paste.needs_masks
    assert ("--masks" in words) == needs
    # no setting is repeated that is the method's default anyway
    default = flat(build_settings({"method": settings.method.name}))
    for name in own.keys() - ROW_NOTES - {"method"}:
        assert flat(settings)[name] != default[name], name


def flat(settings):
    values = settings.model_dump()
    return values | values.pop("method")

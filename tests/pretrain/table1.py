"""The augmentations of the DiLo paper's Table 1."""

from __future__ import annotations

from pretrain.views.recipes import ViewRecipe, instdisc

TABLE1 = ("center_crop", "flip", "spatial_crop", "scale_crop", "jitter", "gray")


def table1(row: str, image_size: int = 224) -> ViewRecipe:
    """DiLo's Table 1: each row adds one augmentation to those before; the last is InstDisc."""
    rows = TABLE1.index(row)
    recipe = instdisc(image_size).model_copy(
        update=dict(crop="center", flip=0.0, jitter=0.0, gray=0.0)
    )
    steps = (
        {},
        {"flip": 0.5},
        {"crop": "spatial"},
        {"crop": "scale"},
        {"jitter": 1.0},
        {"gray": 0.2},
    )
    for step in steps[: rows + 1]:
        recipe = recipe.model_copy(update=step)
    return recipe

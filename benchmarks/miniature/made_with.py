"""A report's folder holds figures of one setting alone, whatever it is called with later."""

from __future__ import annotations

from pathlib import Path

from benchmarks.miniature.steps import Study
from data.errors import UserError
from data.run import flattened
from demo.made_with import note
from pretrain.settings import FREE_ON_RESUME, Settings

_FREE = FREE_ON_RESUME - {"images", "masks", "background_pool"}  # which are other data here
_GIVEN_FOR_SOME_ROWS = ("--textures", "--basnet")


def keep_to(study: Study, settings: Settings, images: Path | None, composite: Path | None) -> None:
    """Note in the folder of the report what its figures are of; refuse a folder of others.

    Tables, seeds and what changes only speed are not noted: other ones add to what is there.
    """
    made_with = {
        "--images": None if images is None else str(images.resolve()),
        "--composite": None if composite is None else str(composite.resolve()),
        **flattened(settings.model_dump(mode="json", exclude=_FREE)),
        "--judged-train": study.judged_train,
        "--judged-val": study.judged_val,
        "--supervised-epochs": study.epochs_supervised,
    }
    if study.textures is not None:
        made_with["--textures"] = str(study.textures.resolve())
    for method, folder in (study.masks or {}).items():
        made_with[f"--{method}"] = str(folder.resolve())
    noted = study.out / "settings.json"
    try:
        if not noted.exists() and (study.out / "runs").exists():
            raise UserError(
                f"--out {study.out} holds runs, and no note of their settings; name another folder."
            )
        differs = note(noted, made_with, may_come=_GIVEN_FOR_SOME_ROWS)
    except OSError as error:
        raise UserError(
            f"--out {study.out} cannot be used ({str(error.strerror or error).lower()}); "
            "name another folder."
        ) from None
    if differs is not None:
        raise UserError(
            f"--out {study.out} was made with {differs}; keep to that, or name another folder."
        )

"""What a folder was made with, noted in it, so that nothing else is ever mixed in."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path

from data.files import write_whole


def note(file: Path, made_with: Mapping[str, object], may_come: Container[str] = ()) -> str | None:
    """Note settings in `file`; return what differs from those noted earlier, as "a = 1, not 2".

    Where something differs the file stays as it is.

    Parameters
    ----------
    made_with : values that JSON can hold, by name.
    may_come : names that may be left out at any time, and given later.
    """
    now = json.loads(json.dumps(made_with))  # as it is read again: tuples become lists
    noted = json.loads(file.read_text("utf-8")) if file.exists() else None
    if noted is not None:
        for name in noted | now:
            if name in may_come and not (name in noted and name in now):
                continue
            if noted.get(name) != now.get(name):
                return f"{name} = {json.dumps(noted.get(name))}, not {json.dumps(now.get(name))}"
    whole = (noted or {}) | now
    if whole != noted:
        write_whole(file, json.dumps(whole, indent=2) + "\n")
    return None

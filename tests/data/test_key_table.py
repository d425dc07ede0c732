"""The hash table finds every key, and no other."""

import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from data.key_table import build_slots, find_row
from data.keys import Keys, decode_key

raw_names = st.binary(min_size=1, max_size=6).map(lambda raw: raw.replace(b"\0", b"x"))


@given(st.lists(raw_names.map(decode_key), unique=True, max_size=60), raw_names.map(decode_key))
def test_finds_each_key_and_no_other(listed, other):
    keys = Keys(listed)
    slots = build_slots(keys)
    assert [find_row(keys, slots, key) for key in keys] == list(range(len(keys)))
    if other not in listed:
        with pytest.raises(KeyError):
            find_row(keys, slots, other)


@given(st.lists(raw_names.map(decode_key), unique=True, max_size=60))
def test_layout_is_as_documented(listed):
    keys = Keys(listed)
    slots = build_slots(keys)
    length = len(slots)
    assert slots.dtype == np.uint32
    assert length & (length - 1) == 0 and length >= max(8, 2 * len(keys))
    assert sorted(slots[slots > 0]) == list(range(1, len(keys) + 1))
    for place in np.flatnonzero(slots):  # no empty slot between a key's first slot and its own
        probe = zlib.crc32(keys.raw(int(slots[place]) - 1)) % length
        while probe != place:
            assert slots[probe] > 0
            probe = (probe + 1) % length


def test_keys_of_one_hash_all_find_their_place(monkeypatch):
    monkeypatch.setattr("data.key_table.zlib.crc32", lambda raw: 2**32 - 1)
    keys = Keys(f"{i}" for i in range(20))
    slots = build_slots(keys)
    assert [find_row(keys, slots, key) for key in keys] == list(range(20))
    with pytest.raises(KeyError):
        find_row(keys, slots, "20")


def test_a_key_that_no_file_can_have_is_not_found():
    keys = Keys(["a"])
    with pytest.raises(KeyError):
        find_row(keys, build_slots(keys), "\ud800")

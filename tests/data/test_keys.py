"""Keys behave like a sorted list of str, in less memory."""

import pickle
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from data.keys import Keys, compositions, decode_key, encode_key, printable

# what a file name on Linux can be: any bytes but zero
raw_names = st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"\0", b"x"))
names = st.lists(raw_names.map(decode_key), unique=True, max_size=40)


@given(names)
def test_is_the_list_sorted_by_bytes(listed):
    keys = Keys(listed)
    expected = sorted(listed, key=lambda key: key.encode("utf-8", "surrogateescape"))
    assert list(keys) == expected
    assert [keys[i] for i in range(-len(keys), len(keys))] == expected * 2
    assert keys.is_sorted()
    assert [keys.find(key) for key in expected] == list(range(len(expected)))


@given(names, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 7))
def test_slices_are_the_lists(listed, start, stop, step):
    keys = Keys(listed)
    part = keys[start:stop:step]
    assert list(part) == list(keys)[start:stop:step]
    assert part == Keys(list(keys)[start:stop:step])
    assert pickle.loads(pickle.dumps(part)) == part
    assert part.digest() == Keys(part).digest()


@given(names, raw_names.map(decode_key))
def test_membership(listed, other):
    keys = Keys(listed)
    assert (other in keys) == (other in listed)
    if other not in listed:
        with pytest.raises(KeyError):
            keys.find(other)


@given(names, st.integers(0, 40))
def test_concatenation_of_parts_is_the_whole(listed, cut):
    keys = Keys(listed)
    assert Keys.concatenate([keys[:cut], keys[cut:]]) == keys


@given(names, names)
def test_rows_of_others(listed, others):
    keys, wanted = Keys(listed), Keys(others)
    rows = keys.rows(wanted).tolist()
    assert rows == [keys.find(key) if key in listed else -1 for key in wanted]
    some = np.flatnonzero(np.array(rows, int) >= 0)
    assert wanted[some] == keys[np.array(rows, int)[some]]


def test_a_key_that_no_file_can_have_is_not_there():
    with pytest.raises(KeyError):
        Keys(["a"]).find("\ud800")
    assert "\ud800" not in Keys(["a"]) and 1 not in Keys(["a"])


def test_digest_is_that_of_terminated_names():
    import hashlib

    assert Keys(["b", "a/é"]).digest() == hashlib.sha256("a/é\0b\0".encode()).hexdigest()
    assert Keys(["ab", "c"]).digest() != Keys(["a", "bc"]).digest()
    many = Keys(f"{i}" for i in range(10_000))  # more than a block
    assert many.digest() == hashlib.sha256(b"".join(r + b"\0" for r in many.iter_raw())).hexdigest()


def test_a_pickled_slice_leaves_the_rest_behind():
    keys = Keys(f"{i:05d}" for i in range(10_000))
    assert len(pickle.dumps(keys[:10])) < 1000


def test_twice_the_same_name_is_refused():
    with pytest.raises(ValueError, match="'a' occurs twice"):
        Keys(["a", "b", "a"])


def test_unsorted_arrays_are_noticed():
    assert not Keys.from_array(np.array([b"b", b"a"])).is_sorted()
    assert not Keys.from_array(np.array([b"a", b"a"])).is_sorted()


def test_rows_beyond_the_end_are_refused():
    keys = Keys(["a", "b"])
    for row in (2, -3):
        with pytest.raises(IndexError):
            keys[row]


def test_memory_is_that_of_the_letters():
    keys = Keys(f"n01440764/n01440764_{i:05d}.JPEG" for i in range(5000))
    assert keys.array.nbytes == 5000 * 30
    assert keys.array.nbytes < sum(map(sys.getsizeof, keys)) / 2


def test_rows_may_be_numpy_integers():
    keys = Keys(["a", "b"])
    assert keys[np.int64(1)] == "b"


def test_printable_is_one_line_of_text_that_can_be_encoded():
    assert printable("é 漢/a b.jpg") == "é 漢/a b.jpg"
    for key in ("a\nb", "\x1b[31m", decode_key(b"\xff"), "\u202e"):
        shown = printable(key)
        assert shown.isprintable()
        shown.encode("utf-8")
    assert encode_key(decode_key(b"\xff\xfe")) == b"\xff\xfe"


def test_names_that_look_alike_are_explained():
    composed, apart = "Z\u00fcrich.png", "Zu\u0308rich.png"
    for one, other in ((composed, apart), (apart, composed)):
        note = Keys([one, "a.png"]).composed_otherwise(Keys(["b.png", other]))
        assert note.startswith(f"; {other!a} and {one!a} differ in Unicode's composition")
        assert not Keys([one, other]).composed_otherwise(Keys([other]))
        assert compositions(one) == [one, other]
    assert not Keys(["a.png"]).composed_otherwise(Keys([composed, "\udcff.png"]))

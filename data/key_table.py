"""Find a key's row among a million in O(1): an open-addressing hash table in one array."""

import zlib

import numpy as np

from data.keys import Keys, encode_key


def build_slots(keys: Keys) -> np.ndarray:
    """Return the hash table of unique keys: uint32, a power of two long, at most half full.

    A slot holds row + 1, or 0 where it is empty. A key's first slot is CRC-32 of its UTF-8 bytes
    modulo the length; where that is taken, the next one, and so on around the end (linear probing).
    """
    count = len(keys)
    length = 1 << max(3, (2 * count - 1).bit_length())
    slots = np.zeros(length, np.uint32)
    hashes = np.fromiter(map(zlib.crc32, keys.iter_raw()), np.uint32, count)
    places = hashes.astype(np.int64) & (length - 1)
    waiting = np.arange(count)
    # All keys at once, one probe a round: a key moves on only from a slot that is taken for good,
    # so no empty slot ever lies between a key's first slot and its own.
    while len(waiting):
        free = slots[places] == 0
        slots[places[free]] = waiting[free] + 1  # of several, the last one stays
        settled = slots[places] == waiting + 1
        waiting = waiting[~settled]
        places = (places[~settled] + 1) & (length - 1)
    return slots


def find_row(keys: Keys, slots: np.ndarray, key: str) -> int:
    """Return the row of a key; KeyError when it is not in the table."""
    try:
        wanted = encode_key(key)
    except UnicodeEncodeError:
        raise KeyError(key) from None
    last = len(slots) - 1
    place = zlib.crc32(wanted) & last
    while row := int(slots[place]):
        if keys.raw(row - 1) == wanted:
            return row - 1
        place = (place + 1) & last
    raise KeyError(key)

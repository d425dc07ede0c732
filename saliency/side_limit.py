"""How long a mask may be."""

MAX_SIDE = 16_384
"""Pixels. All masks of a shard are stored as squares of its longest side. One strip of this length
takes each worker 0.5 GB and each mask of its shard 0.2 s, one twice as long 2 GB and a second;
beyond 65,535 HDF5 does not store it. The longest photographs of today's cameras are this long."""


def too_long(size: tuple[int, int]) -> str:
    """Say that a mask of this (height, width) is too long; empty where it is not."""
    height, width = size
    if max(height, width) <= MAX_SIDE:
        return ""
    return f"{width}x{height} pixels, longer than {MAX_SIDE:,}: give it --max-side"

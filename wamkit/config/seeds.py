"""Seeds: 64-bit integers, with the same range in every option."""

from __future__ import annotations

from hashlib import sha256
from operator import index
from typing import Any

from ..errors import WamkitError

MOST = 2**64 - 1
"""The largest seed, which is what torch takes."""


def expect_seed(found: Any, what: str = "the seed", *, room: int = 1) -> int:
    """`found` as a seed, after which `room - 1` more follow one by one.

    Raises WamkitError if it is no whole number from 0 to `MOST`, or too near to the end.
    """
    try:
        seed = -1 if isinstance(found, bool) else index(found)
    except TypeError:
        seed = -1
    if not 0 <= seed <= MOST:
        text = f"{seed:#x}" if seed > MOST else repr(found)[:80]
        raise WamkitError(f"{what} is {text[:80]}", f"choose a whole number from 0 to {MOST}")
    if seed + room - 1 > MOST:
        raise WamkitError(
            f"{what} is {seed}, and {room - 1} more seeds from there on go beyond 64 bits",
            f"choose a whole number from 0 to {MOST - room + 1}",
        )
    return seed


def fold_seed(value: int) -> int:
    """A whole number of any size as a seed; those that are seeds stay as they are."""
    return value % (MOST + 1)


def to_32_bits(seed: int) -> int:
    """A seed of 32 bits for a simulator, many of which take no more; small ones stay as they are.

    Larger ones are hashed, so that neighbors begin different episodes.
    """
    return seed if seed < 2**32 else int.from_bytes(sha256(str(seed).encode()).digest()[:4])

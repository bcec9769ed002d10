"""Validate instructions of a data set: non-empty text that is no null written as text."""

from __future__ import annotations

from typing import Any

NULLS = frozenset({"none", "null", "nan", "<na>", "nat", "undefined"})
"""What programs write in place of nothing, in small letters."""


def expect_instruction(found: Any, what: str) -> str:
    """Return `found` if it is an instruction. Raises ValueError; `what` names the place in it.

    Missing ones are null, empty, or the name of a null as text, such as "None".
    """
    if not isinstance(found, str):
        raise ValueError(f"{what} is {found!r:.80}, expected an instruction")
    if not found.strip():
        raise ValueError(f"{what} is an empty instruction")
    if found.strip().lower() in NULLS:
        raise ValueError(f"{what} is {found!r:.80}, a null that was written as text")
    return found

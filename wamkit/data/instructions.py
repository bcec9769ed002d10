"""What a data set may call an instruction: words, and no null that became a word on its way."""

from __future__ import annotations

from typing import Any

NULLS = frozenset({"none", "null", "nan", "<na>", "nat", "undefined"})
"""What programs write in place of nothing, in small letters."""


def expect_instruction(found: Any, what: str) -> str:
    """`found`, if it says what to do. Raises ValueError in words; `what` names the place.

    Missing ones are null, empty, or the name of a null as text: nobody tells a robot "None".
    """
    if not isinstance(found, str):
        raise ValueError(f"{what} is {found!r:.80}, expected an instruction")
    if not found.strip():
        raise ValueError(f"{what} is an empty instruction")
    if found.strip().lower() in NULLS:
        raise ValueError(f"{what} is {found!r:.80}, a null that was written as text")
    return found

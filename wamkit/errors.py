"""The one exception that users meet: what was found, why it cannot be, what to type next."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from .printable import printable

if TYPE_CHECKING:
    from .parts import Conflict


class WamkitError(ValueError):
    """Something a user can mend: a spec, a file, an image, a plugin.

    `what` is one sentence with what was found and what was expected; `hint` is what to type or
    change next. Anything else that escapes from wamkit is a bug. Both may quote what a file or a
    stranger said: characters that a terminal obeys are written out (`wamkit.printable`).
    """

    def __init__(self, what: str, hint: str = "") -> None:
        what, hint = printable(what), printable(hint)
        super().__init__(what if not hint else f"{what}\n  hint: {hint}")
        self.what = what
        self.hint = hint


class SpecError(WamkitError):
    """A spec that cannot be built, with every conflict in it."""

    def __init__(self, conflicts: Sequence[Conflict], source: str = "the spec") -> None:
        self.conflicts = tuple(conflicts)
        count = f"{len(conflicts)} conflict" + ("s" if len(conflicts) != 1 else "")
        lines = "\n".join(f"- {conflict}" for conflict in conflicts)
        super().__init__(f"{source} cannot be built: {count}\n{lines}")


class Note(UserWarning):
    """Something that a user should know of what was understood; no fault."""


LONG = 200
"""Characters of a word in which a mistake is looked for."""


def shortened(text: str, most: int = 80) -> str:
    """`text` for a message: of what is longer than `most` characters, the beginning."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def did_you_mean(word: str, known: Sequence[str], otherwise: str = "") -> str:
    """`did you mean 'x'?` for the nearest known word, or `otherwise`."""
    near = get_close_matches(word[:LONG], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else otherwise


class WamkitWarning(UserWarning):
    """What `wamkit.build` warns of, as Python warns: parts that fit and may not belong together."""

"""The exception of wamkit, and conflicts: what was found, and a hint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from pydantic import BaseModel, ConfigDict

OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and new line, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"  # direction, and separators of lines
    "\ufeff\ufff9-\ufffb\ud800-\udfff]"  # byte-order mark, annotations, surrogates
)
"""Control characters, and characters that cannot be encoded."""


class WamkitError(ValueError):
    """Something a user can mend: a spec, a file, an image, a plugin.

    `what` is one sentence with what was found and what was expected; `hint` is what to type or
    change next. Anything else that escapes from wamkit is a bug. Both may quote a file or a
    client: control characters are escaped (`printable`).
    """

    def __init__(self, what: str, hint: str = "") -> None:
        what, hint = printable(what), printable(hint)
        super().__init__(what if not hint else f"{what}\n  hint: {hint}")
        self.what = what
        self.hint = hint


class BusyError(WamkitError):
    """Refused for now by a server that has too much to do; the same may succeed later."""


class Finding(BaseModel):
    """Something about a spec that one should know, and what to do about it. A value."""

    model_config = ConfigDict(frozen=True, defer_build=True, allow_inf_nan=False)

    between: tuple[str, ...]
    """The places in the spec that it is about, such as `backbone` and `vae.name`."""
    why: str
    """The text of the error: what was found and what was expected."""
    hint: str
    """What to change or type next."""

    def __str__(self) -> str:
        return f"{' + '.join(self.between)}: {self.why}\n    hint: {self.hint}"


class Conflict(Finding):
    """Why parts cannot be combined, and what to do about it. A value, not an exception."""

    missing: bool = False
    """True if the parts fit, and only a file or a module is not on this machine."""


class Caution(Finding):
    """A warning about parts that can be combined but may not work as expected."""


class SpecError(WamkitError):
    """A spec that cannot be built, with every conflict in it."""

    def __init__(self, conflicts: Sequence[Conflict], source: str = "the spec") -> None:
        self.conflicts = tuple(conflicts)
        count = f"{len(conflicts)} conflict" + ("s" if len(conflicts) != 1 else "")
        lines = "\n".join(f"- {conflict}" for conflict in conflicts)
        super().__init__(f"{source} cannot be built: {count}\n{lines}")


def printable(text: str, *, lines: bool = True) -> str:
    r"""`text` with every character that a terminal would obey written as Python writes it.

    Such as `\x1b` for escape. With `lines` false, new lines and tabs are written so as well: for
    one line for any content. Printable text is returned unchanged.
    """
    found = OBEYED.sub(_written, text)
    return found if lines else found.replace("\n", "\\n").replace("\t", "\\t")


def _written(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class Note(UserWarning):
    """Information for the user about how an input was understood."""


LONG = 200
"""Characters of a word in which a mistake is looked for."""


def shortened(text: str, most: int = 80) -> str:
    """Truncate `text` to `most` characters for a message."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def did_you_mean(word: str, known: Sequence[str], otherwise: str = "") -> str:
    """`did you mean 'x'?` for the nearest known word, or `otherwise`."""
    near = get_close_matches(word[:LONG], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else otherwise


class WamkitWarning(UserWarning):
    """What `wamkit.build` warns of, as Python warns: parts that fit and may not belong together."""

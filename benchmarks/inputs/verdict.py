"""What the end of a command is called: right, or which kind of wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .case import Case, Outcome

KINDS = (
    "right",
    "traceback",
    "called a bug",
    "hang",
    "memory",
    "accepted though bad",
    "silently wrong",
    "refused though good",
    "no hint in the message",
    "outside its folder",
    "damaged input",
)
LONG = 20_000
"""Characters; a message beyond that is none that anybody reads."""
TIMES = {"seconds", "samples_per_second", "tokens_per_second", "waiting", "utilization", "notes"}
TIMES |= {"files", "file", "bytes", "out", "checkpoint", "best"}
"""Keys of answers that differ from call to call, or say which files there are."""
CACHE = "home/.cache/wamkit/"
"""Where statistics of data sets are kept, below the folder of a case."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def judge(case: Case, outcome: Outcome, valid: Any, here: Path) -> tuple[str, str]:
    """One of KINDS, and what was seen. `valid` is the answer to the valid input."""
    text = outcome.out + outcome.err
    if outcome.limit == "time":
        return "hang", f"{outcome.seconds:.0f} s"
    if outcome.limit == "memory" or "out of memory" in text:
        return "memory", f"{outcome.peak / 2**30:.1f} GiB; {last_line(outcome.err)}"
    if "Traceback (most recent call last)" in text or outcome.code < 0 or outcome.code in (70, 71):
        return "traceback", f"exit code {outcome.code}; {last_line(outcome.err)}"
    if "a bug in " in outcome.err:
        return "called a bug", last_line(outcome.err)
    changed = [line for line in outcome.changed if not _allowed(line, case.out)]
    if damaged := [line for line in changed if line[0] in "~-" and line[1:].startswith("here/")]:
        return "damaged input", " ".join(damaged[:5])
    if changed:
        return "outside its folder", " ".join(changed[:5])
    if outcome.code:
        return _refused(case, outcome)
    return _accepted(case, outcome, valid, here)


def _allowed(line: str, out: Iterable[str]) -> bool:
    path = line[1:]
    if f"{path}/".startswith(CACHE) or CACHE.startswith(f"{path}/"):
        return True
    return any(path == f"here/{name}" or path.startswith(f"here/{name}/") for name in out)


def _refused(case: Case, outcome: Outcome) -> tuple[str, str]:
    message = outcome.err + outcome.out
    if case.expected == "accepted":
        return "refused though good", first_line(message)
    usage = re.search(r"^Usage: wamkit.*^Error: ", outcome.err, re.S | re.M)
    if not usage and not re.search(r"hint|fix|fault|conflict", message):
        return "no hint in the message", first_line(
            message
        ) or f"exit code {outcome.code}, no words"
    if found := _CONTROL.search(message):
        return (
            "no hint in the message",
            f"a control character {found[0]!r} in: {first_line(message)!r}",
        )
    if len(message) > LONG:
        return "no hint in the message", f"a message of {len(message)} characters"
    return "right", first_line(message)


def _accepted(case: Case, outcome: Outcome, valid: Any, here: Path) -> tuple[str, str]:
    if case.expected == "refused":
        return "accepted though bad", last_line(outcome.out)
    if case.look is not None:
        wrong = case.look(here, outcome)
        return ("silently wrong", wrong) if wrong else ("right", "accepted")
    found = answer(outcome)
    if not finite(found):
        return "silently wrong", "an answer that is not finite"
    if case.expected == "either" or alike(found, valid):
        return "right", "accepted"
    return "silently wrong", f"not the answer of the valid input: {str(found)[:120]}"


def answer(outcome: Outcome) -> Any:
    """What a command printed as JSON, without TIMES; its text if that is no JSON."""
    try:
        found = json.loads(outcome.out)
    except ValueError:
        return outcome.out
    if isinstance(found, dict):
        return {key: value for key, value in found.items() if key not in TIMES}
    return found


def alike(one: Any, other: Any) -> bool:
    """Whether two answers are the same, their fractions up to rounding in float32."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def finite(value: Any) -> bool:
    """Whether every number in an answer is finite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return True


def first_line(text: str) -> str:
    """The line that begins with `error`, or the first one."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return ([*errors, *lines] or [""])[0][:300]


def last_line(text: str) -> str:
    """The last line that is not a hint."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("hint")]
    return (lines or [""])[-1][:300]

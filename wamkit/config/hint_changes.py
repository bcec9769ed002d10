"""The changes that a hint names, as overrides that a program can apply.

A hint says what to set as `section.key = value`, or `set section.key to at most value`, in the text
that people read; nothing is stated twice. Of a value that may not stand there it says which is
meant, `did you mean 'value'?`, and which may, `write one of a, b`. Changes that belong together are
listed together or with "and" between them; what stands behind an "or" is another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import Finding, WamkitError
from .overrides import override, value_of
from .parts import KINDS
from .spec import SCALARS, SECTIONS

Change = tuple[str, Any]
"""A path such as `vae.adapter`, and the value to set there."""
Way = tuple[Change, ...]
"""Changes that are made together."""

_TOP = "|".join((*KINDS, *SECTIONS, *SCALARS))
_VALUE = r'"[^"\n]*"|\[[^\[\]\n]*\]|true|false|-?\d+(?:\.\d+)?(?![\w.])|-?\d+(?=\.?(?:\s|$))'
_SET = re.compile(rf"\b((?:{_TOP})(?:\.\w+)*)(?: = | to (?:at most )?)({_VALUE})")
_OTHER = re.compile(rf",? or ({_VALUE})")
_MEANT = re.compile(r"did you mean '([^']*)'\?")
_ALLOWED = re.compile(r"write one of (.+)$")


def fixes_of(finding: Finding) -> list[Way]:
    """Every way that the hint of `finding` names, in its order; empty if it names none."""
    if meant := _values_meant(finding):
        return meant
    ways: list[list[Change]] = []
    others: list[list[Change]] = []
    hint, end = finding.hint, 0
    for found in _SET.finditer(hint):
        path, value = found[1], value_of(found[2])
        if ways and not _is_choice(hint[end : found.start()]):
            ways[-1].append((path, value))
        else:
            ways.append([(path, value)])
        end = found.end()
        while other := _OTHER.match(hint, end):
            others.append([(path, value_of(other[1]))])
            end = other.end()
        ways += others
        others.clear()
    return [tuple(way) for way in ways]


def is_mistyped(finding: Finding) -> bool:
    """Whether `finding` is about one value that is none of those that may stand there."""
    return bool(_values_meant(finding))


def _values_meant(finding: Finding) -> list[Way]:
    """The value that is meant in the one place of a finding, or else each that may stand there."""
    listed = _ALLOWED.search(finding.hint)
    if listed is None or len(finding.between) != 1 or "." not in finding.between[0]:
        return []
    values = _MEANT.findall(finding.hint) or listed[1].split(", ")
    return [((finding.between[0], value_of(value)),) for value in values]


def as_overrides(way: Way) -> list[str]:
    """The changes as `--set` takes them."""
    return [f"{path}={_to_toml(value)}" for path, value in way]


def apply_way(raw: Mapping[str, Any], way: Way) -> dict[str, Any]:
    """A copy of `raw` with the changes made. Raises WamkitError if a path leads nowhere."""
    return override(raw, as_overrides(way))


def effective_ways(
    raw: Mapping[str, Any], ways: Iterable[Way]
) -> Iterator[tuple[Way, dict[str, Any]]]:
    """Those of `ways` that change something in `raw`, each with what becomes of it."""
    for way in ways:
        try:
            changed = apply_way(raw, way)
        except WamkitError:
            continue
        if changed != raw:
            yield way, changed


def _is_choice(between: str) -> bool:
    """Whether what stands between two changes separates two ways."""
    return re.search(r"\bor\b", between) is not None


def _to_toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

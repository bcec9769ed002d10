"""What can be answered to a question of the wizard, and what a policy would have with it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ...config.composing import Composition, compose_spec
from ...config.parts import KINDS
from ...config.spec import PolicySpec, parse
from .._params import parameters
from .asked import Asked
from .report import token_line
from .short_forms import FLAGS


class Offer(NamedTuple):
    """One line of a list to choose from."""

    word: str
    title: str
    """The word, and what the policy would have with it: parameters and tokens."""
    why_not: str | None
    """Why it does not fit the answers so far; None if it does."""


def list_offers(asked: Asked, flag: str, labels: Sequence[str]) -> list[Offer]:
    """What can be answered with `labels`: those that fit first, the others with the reason."""
    offers = []
    for word in labels:
        made = compose_spec(with_part(asked, flag, word).request())
        title = f"{word:<{max(map(len, labels))}}  {_facts(made, FLAGS[flag])}"
        why = made.conflicts[0].why if made.conflicts else None
        offers.append(Offer(word, title.rstrip(), why))
    return sorted(offers, key=lambda offer: offer.why_not is not None)


def with_part(asked: Asked, flag: str, word: str) -> Asked:
    """The same with the part of an option."""
    return replace(asked, parts={**asked.parts, flag: word})


def _facts(made: Composition, kind: str) -> str:
    """Parameters of the part of a kind, and tokens of one pass with it."""
    if made.conflicts:
        return ""
    spec = parse(made.raw)
    tokens = sum(count for role, count in spec.tokens().items() if role != "text")
    return f"{_count(spec, kind)}{tokens:,} tokens"


def sum_line(made: Composition) -> str:
    """Parameters and tokens of a whole composition, as far as it is decided."""
    if made.conflicts:
        return f"  {made.conflicts[0].why}"
    spec = parse(made.raw)
    counts = ", ".join(f"{kind} {text}" for kind in KINDS if (text := _count(spec, kind, "")))
    return f"  {counts}; {token_line(spec)}"


def _count(spec: PolicySpec, kind: str, end: str = " parameters, ") -> str:
    """The parameters of a part; empty if it has none, or they cannot be counted."""
    part = getattr(spec, kind)
    sizes = spec.sizes.model_dump_json() if kind == "action_head" else ""
    found = _parameters(kind, part.model_dump_json(), sizes, spec)
    return f"{_short(found)}{end}" if isinstance(found, int) and found else ""


def _short(count: int) -> str:
    """Parameters as one speaks of them: 1.9 B, 85 M, 640 K."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2g} {unit}" if count < 10 * size else f"{count // size} {unit}"
    return str(count)


_known: dict[tuple[str, str, str], int | str] = {}


def _parameters(kind: str, part: str, sizes: str, spec: PolicySpec) -> int | str:
    """Counted once for each part; no weight is allocated."""
    key = kind, part, sizes
    if key not in _known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _known[key] = parameters(getattr(spec, kind), spec.sizes)
    return _known[key]

"""What to change in a request that cannot be composed: tried, not guessed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from ...errors import Note, WamkitError
from ..hint_changes import Way, apply_way, as_overrides, fixes_of, is_mistyped
from ..parts import KINDS, Conflict
from .candidates import candidates
from .composition import Composition, compose_spec
from .draft import Draft
from .request import Request
from .robot_defaults import fill_robot

STEPS = 4
"""Changes that are tried one after the other."""
SHOWN = 3
"""Ways that are listed for one conflict."""


@dataclass(frozen=True)
class Remedy:
    """What fixes a request."""

    ways: tuple[tuple[Conflict, tuple[Way, ...]], ...]
    """Each conflict with the changes of which any one removes it and adds no other."""
    settings: tuple[str, ...]
    """Overrides with which the request can be composed; empty if none were found."""


def find_remedy(request: Request, refused: Composition) -> Remedy:
    """Look for changes that fix the conflicts of a refused request."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        found = refused.conflicts
        ways = tuple(
            (c, tuple(w for w, _, _ in _find_ways(refused.draft, found, c))) for c in found
        )
        settings = _settings(request, refused)
    return Remedy(tuple((c, w[:SHOWN]) for c, w in ways), settings)


def _settings(request: Request, refused: Composition) -> tuple[str, ...]:
    """Overrides that were tried on the whole request; empty if there are none."""
    draft, left, changes = refused.draft, list(refused.conflicts), []
    for _ in range(STEPS):
        steps = [step for conflict in left for step in _find_ways(draft, left, conflict)]
        if not steps:
            return ()
        way, draft, left = min(steps, key=lambda step: len(step[2]))
        changes += as_overrides(way)
        if not left:
            break
    try:
        again = compose_spec(request.with_settings(changes))
    except WamkitError:
        return ()
    return () if again.conflicts else tuple(changes)


def _find_ways(
    draft: Draft, found: tuple[Conflict, ...] | list[Conflict], conflict: Conflict
) -> Iterator[tuple[Way, Draft, list[Conflict]]]:
    """Changes that remove `conflict` and add none: what hints say, then other parts."""
    helped = False
    hinted = fixes_of(conflict)
    for way in chain(hinted, _exchanges(draft, conflict)):
        if way not in hinted and (helped or is_mistyped(conflict)):
            return  # other parts are tried only where the hint does not help
        try:
            trial = Draft(apply_way(draft.raw, way), draft.typed | {path for path, _ in way})
        except WamkitError:
            continue
        fill_robot(trial)
        left = trial.mend()
        if conflict not in left and len(left) < len(found):
            helped = True
            yield way, trial, left


def _exchanges(draft: Draft, conflict: Conflict) -> Iterator[Way]:
    """Other parts of the kinds that a conflict is between, the likeliest first."""
    kinds = {place.partition(".")[0] for place in conflict.between}
    for kind in reversed(KINDS):
        table = draft.raw.get(kind)
        if kind not in kinds or not isinstance(table, dict):
            continue
        rest = draft.copy()
        rest.raw.pop(kind)
        for other, _ in candidates(rest, kind):
            if other["name"] != table.get("name"):
                yield tuple((f"{kind}.{key}", value) for key, value in other.items())

"""Actions that are relative to the state, and the state that they need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parts import Conflict

if TYPE_CHECKING:
    from .spec import PolicySpec


def state_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield a conflict if actions are relative to a state that the policy does not get."""
    if spec.state.size == 0 and any(g.kind == "relative" for g in spec.actions.groups):
        yield Conflict(
            between=("actions.groups", "state.size"),
            why="relative actions are differences to the state, and the policy gets no state",
            hint=f"set state.size = {spec.actions.size}, or to that of your robot, or make the "
            "group absolute or delta",
        )


def relative_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield a conflict for each group that is relative to no values of the state."""
    for place, group in enumerate(spec.actions.groups):
        if group.kind == "relative" and group.state is None:
            yield Conflict(
                between=("actions.groups",),
                why=f"group {group.name!r} is relative but does not say to what in the state",
                hint=f"set actions.groups.{place}.state = {_start(spec, place)}, or to the place "
                f"of {group.name}'s first value in the state",
            )
        elif (
            group.kind == "relative"
            and spec.state.size
            and (group.state or 0) + group.size > spec.state.size
        ):
            yield Conflict(
                between=("actions.groups", "state.size"),
                why=f"group {group.name!r} is relative to values {group.state} to "
                f"{(group.state or 0) + group.size - 1} of a state of {spec.state.size}",
                hint=f"set state.size = {(group.state or 0) + group.size}, or "
                f"actions.groups.{place}.state = {_start(spec, place)}",
            )


def _start(spec: PolicySpec, place: int) -> int:
    """Where the values of a group begin in a state that is ordered as the action is, if they do."""
    before, size = spec.actions.groups[:place], spec.actions.groups[place].size
    return max(0, min(sum(group.size for group in before), spec.state.size - size))

"""Who sees whom: tables of role names, and what follows from them without a tensor in sight."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

Visibility = Mapping[str, Collection[str]]
"""role -> the roles that its tokens attend to. A role that is absent from a scene is skipped."""


def everyone(roles: Iterable[str]) -> dict[str, frozenset[str]]:
    """Full visibility: each role attends to all of `roles`."""
    every = frozenset(roles)
    return dict.fromkeys(every, every)


def followed(sees: Visibility, present: Collection[str]) -> Visibility:
    """What changes what, where words have the noise level of the target frames that are present.

    As `sees`, but words change with the target frames as if they looked at them.
    """
    targets = {role for role in present if role.partition(".")[0] == "target"}
    return {**sees, "text": {*sees.get("text", ()), *targets}}


def closed_part(
    roles: Collection[str], sees: Visibility, present: Collection[str]
) -> frozenset[str]:
    """The largest subset of `roles` that looks at nothing but itself among the roles `present`.

    One pass over it can be kept.
    """
    kept = set(roles)
    while True:
        open_ = {r for r in kept if not (set(sees.get(r, ())) & set(present)) <= kept}
        if not open_:
            return frozenset(kept)
        kept -= open_

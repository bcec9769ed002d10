"""Strip the prefixes that training wrappers add to the names of weights.

A wrapper adds a prefix to every name (`module.`, `model.diffusion_model.`) or inserts a component
into some (`._orig_mod.`). Both are stripped if the remaining names are a known layout. Where a file
holds several sets of weights, such as a model and its moving average, the path names one by its
prefix: `checkpoint.pt#generator_ema`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from ..errors import WamkitError
from .files import Entry

Entries = Mapping[str, Entry]
DEPTH = 6  # components of a prefix that are tried
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|"
    r"_ddp_module|base_model\.model|base_layer)\."
)


class Fit(NamedTuple):
    """How well the names of a file match a model, in the detected layout."""

    layout: str
    missing: int
    unexpected: int


def strip_wrappers(entries: Entries, where: str) -> dict[str, Entry]:
    """Drop the components that wrappers insert into names."""
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        new = _WRAPPERS.sub("", name)
        if new in found:
            raise WamkitError(
                f"{where} holds {new} twice, as {found[new].name} and as {entry.name}",
                "save the weights of one model alone",
            )
        found[new] = entry
    return found


def select_prefix(entries: Entries, prefix: str, where: str) -> dict[str, Entry]:
    """Select the tensors named `prefix`.*, without it. Raises WamkitError if there are none."""
    start = prefix.rstrip(".") + "."
    found = {k.removeprefix(start): e for k, e in entries.items() if k.startswith(start)}
    if not found:
        raise WamkitError(
            f"no name in {where} begins with {start!r}", f"there is {_summarize(entries)}"
        )
    return found


def strip_prefix(entries: Entries, fit: Callable[[Entries], Fit | None], where: str) -> Entries:
    """Strip the prefix of the one set of tensors that matches the model.

    Returns `entries` unchanged if they match as they are, or no prefix matches better. Raises
    WamkitError if several sets match, or one does and the file holds other tensors too.
    """
    whole = fit(entries)
    if whole is not None and not whole.missing and not whole.unexpected:
        return entries
    found = {
        p: (mine, f)
        for p, mine in _group_by_prefix(entries).items()
        if (f := fit(mine)) is not None
    }
    sets = [p for p, (_, f) in found.items() if not f.missing]
    sets = [p for p in sets if not any(q != p and q.startswith(p) for q in sets)]
    if len(sets) == 1 and len(found[sets[0]][0]) == len(entries):
        return found[sets[0]][0]
    complete = whole is not None and not whole.missing
    if sets:
        listed = [f"{p}* (layout {found[p][1].layout})" for p in sets]
        listed += ["names without a prefix"] * complete
        several = "several sets of these weights" if len(listed) > 1 else "more than these weights"
        raise WamkitError(
            f"{where} holds {several}: {'; '.join(listed)}; there is {_summarize(entries)}",
            f'choose by the prefix, behind the path: weights = "{where}#{sets[-1].rstrip(".")}"',
        )
    if whole is None:  # nothing is complete: the prefix of all names may still hide the layout
        shared = [p for p in found if len(found[p][0]) == len(entries)]
        if shared:
            best = min(shared, key=lambda p: (sum(found[p][1][1:]), len(p)))
            return found[best][0]
    return entries


def common_prefixes(names: Collection[str]) -> list[str]:
    """Prefixes that all names have, the shortest first."""
    found: list[str] = []
    components = next(iter(names), "").split(".")[:-1]
    for depth in range(1, min(DEPTH, len(components)) + 1):
        start = ".".join(components[:depth]) + "."
        if not all(name.startswith(start) for name in names):
            break
        found.append(start)
    return found


def _group_by_prefix(entries: Entries) -> dict[str, dict[str, Entry]]:
    """Return prefix -> its tensors, for prefixes of enough names to be a model."""
    counts: dict[str, int] = {}
    for name in entries:
        components = name.split(".")
        for depth in range(1, min(DEPTH, len(components) - 1) + 1):
            start = ".".join(components[:depth]) + "."
            counts[start] = counts.get(start, 0) + 1
    least = max(2, len(entries) // 50)
    return {
        start: {k.removeprefix(start): e for k, e in entries.items() if k.startswith(start)}
        for start, count in counts.items()
        if count >= least
    }


def _summarize(entries: Entries, most: int = 8) -> str:
    """Count the names by their first component."""
    counts: dict[str, int] = {}
    for name in entries:
        first, dot, _ = name.partition(".")
        counts[first + dot] = counts.get(first + dot, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{start}{'*' * start.endswith('.')} ({n})" for start, n in ordered[:most])
    return listed + f", and {len(ordered) - most} others" * (len(ordered) > most)

"""Which plugins are installed, and which installations are damaged."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path

GROUP = "wamkit"


def installed() -> list[EntryPoint]:
    """The entry points of every installed plugin, whatever state other distributions are in."""
    try:
        return list(entry_points(group=GROUP))
    except Exception:  # one damaged distribution makes importlib.metadata give up on all
        found: dict[tuple[str, str], EntryPoint] = {}
        for distribution in distributions():
            try:
                points = distribution.entry_points
            except Exception:
                continue
            for point in points:
                if point.group == GROUP:
                    found.setdefault((point.name, point.value), point)
        return list(found.values())


def owner_of(point: EntryPoint) -> tuple[str, str, str]:
    """The distribution of an entry point, its version, and what is wrong with its installation.

    Reading them takes a millisecond.
    """
    if point.dist is None:
        return "an unknown distribution", "?", ""
    folder = getattr(point.dist, "_path", None)  # importlib.metadata has no public name for it
    name: str | None = None
    version: str | None = None
    try:
        about = point.dist.metadata
        name, version = about["Name"], about["Version"]
    except Exception:  # what a damaged file raises differs between versions of Python
        pass
    if name and version:
        return name, version, ""
    stem = Path(str(folder)).name if folder is not None else ""
    guess = re.fullmatch(r"(.+?)(?:-([^-]+))?\.(?:dist|egg)-info", stem)
    label, number = (guess[1], guess[2] or "?") if guess else ("an unknown distribution", "?")
    where = f"the folder {folder}" if folder is not None else "its folder"
    fault = (
        f"its installation was interrupted: {where} has no METADATA with a name and a version; "
        f"remove that folder and install {label} again"
    )
    return name or label, version or number, fault

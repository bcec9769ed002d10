"""Resolve the path of a policy, run or checkpoint to the folder of a policy."""

from __future__ import annotations

from pathlib import Path

from ._output import note


def resolve_source(source: Path) -> Path:
    """The folder of the saved policy that `source` means, or `source` itself if it is a spec.

    Prints the chosen folder on stderr if it is not the given one.
    """
    from ..config.runs import find, is_folder

    if not is_folder(source):
        return source
    found = find(source)
    if found.note is not None:
        note(found.note)
    return found.policy

"""From what is typed for a policy to its folder: runs and checkpoints hold policies too."""

from __future__ import annotations

from pathlib import Path

from ._output import note


def taken(source: Path) -> Path:
    """The folder of the saved policy that `source` means, or `source` itself if it is a spec.

    Says on stderr which one it is if its folder was not named itself.
    """
    from ..config.runs import find, is_folder

    if not is_folder(source):
        return source
    found = find(source)
    if found.note is not None:
        note(found.note)
    return found.policy

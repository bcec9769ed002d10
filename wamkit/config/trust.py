"""Paths that a saved policy names outside its own folder: asked for, not read silently.

A saved policy may come from an untrusted source, and its spec may name any file of this machine,
for example as weights. Those paths are read that lie in its folder, that the user has set
(`--set`), or that the user trusts: once with `--trust-paths` or `WAMKIT_TRUST_PATHS=1`, and from
then on, because trusted paths are remembered, as are those of policies saved on this machine.
Repositories of the hub (`hf:owner/name`) are no paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..errors import WamkitError, printable
from ..files.hub import HUB
from ..files.paths import expand_home
from ..files.variables import TRUST
from .kinds import KINDS

FILES = ("weights", "lora", "conditioner_weights", "embeddings_file")
"""Fields of parts that name a file or a folder, relative to the working directory."""
_NOT_READ = (
    "derived_from",
    "prompt_template",
    "negative_prompt",
)  # provenance, and text that is no path
_allowed: ContextVar[bool] = ContextVar("allowed", default=False)


@contextmanager
def trusting_paths() -> Iterator[None]:
    """Within this block every path that a saved policy names is read, and remembered."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def named_paths(raw: Mapping[str, Any]) -> dict[str, str]:
    """The paths in the tables of a spec: place, such as "vae.weights" -> path."""
    found: dict[str, str] = {}
    for kind in KINDS:
        for place, key, value in _texts(raw.get(kind), kind, ""):
            if key not in _NOT_READ and not value.startswith(HUB) and _is_path(key, value):
                found[place] = value
    return found


def expect_trusted(raw: Mapping[str, Any], used: Mapping[str, Any], home: Path) -> None:
    """Refuse paths outside the folder `home` that the tables `raw` in it name and nobody trusts.

    `used` are the tables after overrides: a path that the user has set is the user's. Raises
    WamkitError that lists them.
    """
    mine, own = named_paths(used), home.absolute()
    outside = {
        place: path
        for place, path in named_paths(raw).items()
        if mine.get(place) == path and not _lies_in(own, path)
    }
    if not outside:
        return
    if _allowed.get() or os.environ.get(TRUST) == "1":
        remember(outside.values())
        return
    known = trusted_paths()
    if asked := {k: p for k, p in outside.items() if _absolute(p) not in known}:
        listed = "; ".join(f"{place} = {printable(path)}" for place, path in asked.items())
        raise WamkitError(
            f"the policy in {home} names paths outside its folder: {listed}",
            "if you know where it comes from, read them with --trust-paths (Python: with "
            "wamkit.trusting_paths(): ...), or name your own with --set "
            f"{next(iter(asked))}=PATH",
        )


def remember(paths: Iterable[str]) -> None:
    """Trust these paths from now on. Does nothing where the home cannot be written."""
    new = sorted({_absolute(path) for path in paths} - trusted_paths())
    if not new:
        return
    file = memory()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{json.dumps(path)}\n" for path in new))


def trusted_paths() -> set[str]:
    """The absolute paths that are trusted; a damaged line of the file counts for nothing."""
    try:
        lines = memory().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return set()
    found = set()
    for line in lines:
        with suppress(ValueError):
            path = json.loads(line)
            if isinstance(path, str):
                found.add(path)
    return found


def memory() -> Path:
    """The file that remembers them, a JSON text in each line: delete one to distrust its path."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return expand_home(base) / "wamkit" / "trusted_paths.jsonl"


def _texts(value: Any, place: str, key: str) -> Iterator[tuple[str, str, str]]:
    """Place, last key and text of every text in a tree."""
    if isinstance(value, str):
        yield place, key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{place}.{name}", str(name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}.{index}", key)


def _is_path(key: str, value: str) -> bool:
    """True for the fields that name files, and in others for text that leads somewhere else."""
    parts = value.replace("\\", "/").split("/")
    return key in FILES or value[:1] in ("/", "~", "\\") or value[1:2] == ":" or ".." in parts


def _absolute(path: str) -> str:
    """The path by its text, without `..`; links are not followed."""
    return os.path.normpath(expand_home(path).absolute())


def _lies_in(folder: Path, path: str) -> bool:
    return Path(_absolute(path)).is_relative_to(os.path.normpath(folder))

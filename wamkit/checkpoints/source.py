"""A released checkpoint that is to be imported: its tensors by name, and the files next to them.

Nothing in it is executed: weights are read as data (`wamkit.checkpoints.files`), settings as plain
JSON or YAML.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from ..files import strict_json
from ..files.documents import read_table
from ..files.hub import is_remote, license_of, local_path, pin_revision
from ..files.locate import split_prefix, weight_files
from ..files.placeholders import refuse_placeholder
from ..files.shards import PICKLED, SUFFIX
from .files import Entry, headers
from .formats import resolve_scales
from .prefixes import select_prefix, strip_wrappers

HUB_FILES = (
    *("*.safetensors", "*.json", "*.model", "*.txt", "*.yaml", "*.yml", "*.pkl", "*.npy", "*.md"),
    *(f"*{suffix}" for suffix in (*PICKLED, ".distcp", ".metadata")),
)
"""Files fetched from a repository that is imported."""
SETTINGS = ("*.json", "*.yaml", "*.yml")
"""Files fetched from the folder of a single file that is imported."""
MOST_STATISTICS = 2**26
"""The largest JSON file next to the weights that is read: 64 MiB."""


class Source:
    """A file, a folder, or hf:owner/name, with the weights and settings of one system.

    Args:
        path: As the user named it; `FILE#prefix` names one of several sets of weights.
        folders: Subfolders that may hold the weights, such as "transformer".

    Raises:
        WamkitError: There is no such place, or it cannot be fetched.
    """

    def __init__(self, path: str | Path, folders: Sequence[str] = ()) -> None:
        self.path = str(path)
        place, self._prefix = split_prefix(path)
        self._named = place
        self._folders = tuple(folders)
        if is_remote(place) and Path(place.partition("@")[0]).suffix in (SUFFIX, *PICKLED):
            at = place.rpartition("@")[2] if "@" in place else ""
            parent = place.partition("@")[0].rpartition("/")[0]
            local_path(f"{parent}@{at}" if at else parent, files=SETTINGS)
        self.place = local_path(place, files=HUB_FILES)
        """The local file or folder."""
        if not self.place.exists():
            raise WamkitError(
                f"there is nothing at {place}",
                "name a file of weights, a folder that holds one, or hf:owner/name",
            )

    @property
    def folder(self) -> Path:
        """The local folder, or that of the file."""
        return self.place if self.place.is_dir() else self.place.parent

    @property
    def origin(self) -> str:
        """Where it came from: the path, of the hub with the commit that was read."""
        return pin_revision(self._named) if is_remote(self._named) else self.place.name

    @property
    def hub_license(self) -> str | None:
        """License that the hub states for its repository, if it is from there."""
        return license_of(self._named) if is_remote(self._named) else None

    @cached_property
    def tensors(self) -> Mapping[str, Entry]:
        """Name -> entry of every tensor in its weight files; wrappers' prefixes are taken off.

        Raises WamkitError if there is no weight file, or several sets.
        """
        return self._entries(weight_files(self.place, self._folders))

    @cached_property
    def tensor_names(self) -> frozenset[str]:
        """The names in `tensors`; none if the folder has no single set of weight files.

        Raises WamkitError if the files are damaged, or shards are missing.
        """
        try:
            return frozenset(self.tensors)
        except WamkitError:
            if self.place.is_file() or self._holds_weights():
                raise
            return frozenset()

    def _holds_weights(self) -> bool:
        """True if weight files are directly in the folder, or where they may be."""
        places = [self.place, *(self.place / name for name in self._folders)]
        held = (file for place in places if place.is_dir() for file in place.iterdir())
        return any(file.name.endswith((SUFFIX, *PICKLED, ".distcp")) for file in held)

    def tensors_in(self, folder: str) -> Mapping[str, Entry]:
        """The tensors of a subfolder, such as "transformer"."""
        return self._entries(weight_files(self.folder / folder)) if folder else self.tensors

    def _entries(self, files: Sequence[Path]) -> Mapping[str, Entry]:
        where = self.path
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is pickled; ")  # an import converts it
            held = headers(files)
        found: Mapping[str, Entry] = strip_wrappers(resolve_scales(held, where), where)
        return found if self._prefix is None else select_prefix(found, self._prefix, where)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of the files next to the weights, and in subfolders, relative to `folder`."""
        inner = sorted(p for p in self.folder.rglob("*") if p.is_file())
        return tuple(p.relative_to(self.folder).as_posix() for p in inner[:10_000])

    def find(self, *patterns: str) -> Path | None:
        """The file whose name, relative to `folder`, matches the first pattern that any matches.

        Of several, the one that begins like the file of weights. Raises WamkitError if that
        leaves more than one.
        """
        for pattern in patterns:
            found = [name for name in self.files if fnmatch(name, pattern)]
            if len(found) > 1 and self.place.is_file():
                stem = self.place.name.partition(".")[0]
                found = [name for name in found if Path(name).name.startswith(stem)] or found
            if len(found) > 1:
                raise WamkitError(
                    f"{self.folder} holds several {pattern}: {', '.join(found[:5])}",
                    "name the file of weights they belong to, or move the others away",
                )
            if found:
                return self.folder / found[0]
        return None

    def settings(self, *patterns: str) -> dict[str, Any]:
        """The table in the JSON or YAML file that matches (see `find`); {} if there is none."""
        file = self.find(*patterns)
        return {} if file is None else read_table(file, "file of settings", "copy it again")

    def json(self, *patterns: str) -> Any:
        """What the JSON file that matches (see `find`) holds; None if there is none."""
        file = self.find(*patterns)
        if file is None:
            return None
        refuse_placeholder(file)
        return strict_json.read(file, "download or copy it again", most=MOST_STATISTICS)

"""A spec that extends another: a few keys of its own over a base, merged table by table."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import WamkitError, did_you_mean, shortened
from ..files.documents import read_table
from ..files.paths import expand_home, read_text
from ..files.toml_lines import key_lines
from .overrides import override
from .parts import Conflict

EXTENDS = "extends"
"""The key of a spec that names its base, by a path relative to the file that says it, or whole."""
UNSET = "unset"
"""The key of a spec with a base that lists what of the base does not hold, by dotted paths."""
SUFFIX = ".toml"
START = "start from examples/toy.toml"


class Extended(dict[str, Any]):
    """The tables of a spec that extends another, merged, which know where each key was written."""

    def __init__(self, tables: Mapping[str, Any], documents: Sequence[tuple[Path, Any]]) -> None:
        super().__init__(tables)
        self._documents = documents  # file and tables, those that win first
        self._typed: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """The file of the base."""
        return self._documents[-1][0]

    def apply_overrides(self, overrides: Iterable[str]) -> Extended:
        """These tables with `key=value` overrides, which stand in no file."""
        texts = tuple(overrides)
        changed = Extended(override(self, texts), self._documents)
        typed = (text.partition("=")[0].strip().removesuffix(".name") for text in texts)
        changed._typed = (*self._typed, *typed)
        return changed

    def add_origins(self, conflicts: Iterable[Conflict]) -> list[Conflict]:
        """The mistakes in the text of these tables, each with the file and line it stands in."""
        found = []
        for conflict in conflicts:
            where = self.origin(conflict.between[0]) if conflict.between else None
            update = {"why": f"{conflict.why} ({where})"} if where else {}
            found.append(conflict.model_copy(update=update))
        return found

    def origin(self, place: str) -> str | None:
        """`FILE, line N` of a dotted path, or of the table around it; None if no file holds it."""
        if any(f"{place}.".startswith(f"{typed}.") for typed in self._typed):
            return None
        while place and not _holds(self, place):
            place = place.rpartition(".")[0]
        for file, tables in self._documents:
            if place and _holds(tables, place):
                lines, inner = key_lines(read_text(file)), place
                while inner and inner not in lines:
                    inner = inner.rpartition(".")[0]
                return f"{file}, line {lines[inner]}" if inner else str(file)
        return None


def resolve_extends(document: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The tables of `document`, which stands in `file`, with those of the base it extends.

    A document without `extends` is returned as it is. Otherwise tables are merged key by key. A
    table with another `name` than the base's replaces it whole, and so do lists and values. What
    `unset` lists is left out of the base before. Raises WamkitError if the base is missing, is no
    TOML, or extends another spec itself (there is one level), and for what cannot be unset.
    """
    if EXTENDS not in document:
        return dict(document)
    if file.suffix != SUFFIX:
        raise WamkitError(
            f"{file} says `{EXTENDS}`, which is read in .toml specs that people write; this one "
            "must be whole",
            f"write it as {file.with_suffix(SUFFIX).name}, or copy the keys of its base",
        )
    own = {key: value for key, value in document.items() if key not in (EXTENDS, UNSET)}
    base, tables = _base(document[EXTENDS], file)
    left = _without(tables, document.get(UNSET, []), file, base)
    return Extended(merge(left, own), [(file, own), (base, left)])


def refuse_extends(document: Mapping[str, Any], file: Path) -> None:
    """Raise WamkitError if a saved policy's spec, which is whole, says `extends`."""
    if EXTENDS in document:
        raise WamkitError(
            f"{file} says `{EXTENDS}`; the spec of a saved policy is whole and extends nothing",
            "save the policy again from the spec that it was built from",
        )


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `own` says: tables key by key, all else replaced.

    A table with a `name` that differs from the base's replaces the whole of it; a part may be
    written by its name alone.
    """
    merged = dict(base)
    for key, value in own.items():
        old = merged.get(key)
        merged[key] = value if old is None else _merge_values(old, value)
    return merged


def _merge_values(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, str) and old.get("name") == new:
        return old
    if isinstance(old, str) and isinstance(new, Mapping):
        old = {"name": old}
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    same = new.get("name", old.get("name")) == old.get("name")
    return merge(old, new) if same else new


def _base(named: Any, file: Path) -> tuple[Path, dict[str, Any]]:
    """Path and tables of the base that `file` names."""
    if not isinstance(named, str) or not named:
        raise WamkitError(
            f"{file} says {EXTENDS} = {shortened(repr(named))}, expected the path of a spec",
            f'for example {EXTENDS} = "fastwam.toml"',
        )
    lead = f'{file} says {EXTENDS} = "{shortened(named)}"'
    base = file.parent / expand_home(named)
    if not base.exists():
        near = [p.name for p in base.parent.glob(f"*{SUFFIX}") if p.name != file.name]
        hint = f"a path is relative to the folder of {file.name}: {file.absolute().parent}"
        if expand_home(named).is_absolute():
            hint = f"name a spec that is there, or one relative to {file.absolute().parent}"
        raise WamkitError(f"{lead}, and there is no such file", did_you_mean(base.name, near, hint))
    if not base.is_file() or base.suffix != SUFFIX:
        what = "is a folder" if base.is_dir() else f"is no {SUFFIX} file"
        raise WamkitError(f"{lead}, which {what}", f"name a spec that ends in {SUFFIX}")
    if base.samefile(file):
        raise WamkitError(f"{lead}, which is this file", f"name its base, or remove {EXTENDS}")
    tables = read_table(base, "spec", START)
    if EXTENDS in tables:
        again = base.parent / expand_home(str(tables[EXTENDS]))
        if again.exists() and again.samefile(file):
            raise WamkitError(
                f"{lead}, which extends {file.name} in turn: a cycle",
                f"remove {EXTENDS} from one of the two",
            )
        raise WamkitError(
            f"{lead}, which extends {tables[EXTENDS]} itself; there is one level only",
            f"extend {tables[EXTENDS]}, and write here what differs from it",
        )
    return base, tables


def _without(tables: Mapping[str, Any], paths: Any, file: Path, base: Path) -> dict[str, Any]:
    """The tables of the base without what `paths` list."""
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise WamkitError(
            f"{file} says {UNSET} = {shortened(repr(paths))}, expected a list of keys of {base}",
            f'for example {UNSET} = ["actions.clip"]',
        )
    left: Any = copy.deepcopy(dict(tables))
    for path in paths:
        *parents, last = path.split(".")
        table = left
        for key in parents:
            table = table.get(key) if isinstance(table, Mapping) else None
        if not isinstance(table, dict) or last not in table:
            raise WamkitError(
                f"{file} unsets {shortened(path)}, which {base} does not set",
                did_you_mean(path, list(_paths(tables)), f"leave it out of {UNSET}"),
            )
        del table[last]
    return left  # type: ignore[no-any-return]


def _paths(tables: Mapping[str, Any], lead: str = "") -> Iterator[str]:
    """The dotted paths of all that tables set."""
    for key, value in tables.items():
        yield f"{lead}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{lead}{key}.")


def _holds(tables: Any, place: str) -> bool:
    """Whether there is something at the dotted path `place`."""
    for key in place.split("."):
        if isinstance(tables, Mapping) and key in tables:
            tables = tables[key]
        elif isinstance(tables, list) and key.isascii() and key.isdigit() and len(key) < 10:
            if int(key) >= len(tables):
                return False
            tables = tables[int(key)]
        else:
            return False
    return True

"""What somebody wants of a spec: parts, values, and perhaps a spec to begin from."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..overrides import override
from ..parts import KINDS
from .draft import Draft
from .exchange import exchange_part


@dataclass(frozen=True)
class Request:
    """Everything that is decided before anything is chosen."""

    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """kind -> the table of the part that is asked for: its name, and perhaps its variant."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """path -> value, such as `state.size`."""
    settings: tuple[str, ...] = ()
    """Overrides as `--set` takes them; they come last."""
    base: Mapping[str, Any] = field(default_factory=dict)
    """Tables of the spec to begin from. What is asked for takes its place, the rest stays if it
    fits."""

    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """view -> height and width of its images, where that is known."""

    def with_settings(self, more: Iterable[str]) -> Request:
        """The same with further overrides."""
        return replace(self, settings=(*self.settings, *more))

    def draft(self) -> Draft:
        """The tables that follow, before anything is chosen. Raises WamkitError for a bad path."""
        draft = Draft(_without_null(dict(self.base)), images=self.images)
        for kind in KINDS:
            if isinstance(name := draft.raw.get(kind), str):
                draft.raw[kind] = {"name": name}
        for kind, part in self.parts.items():
            exchange_part(draft, kind, part)
        for path, value in self.values.items():
            *parents, last = path.split(".")
            place = draft.raw
            for key in parents:
                place = place.setdefault(key, {})
            place[last] = copy.deepcopy(value)
        draft.raw = override(draft.raw, self.settings)
        draft.typed = set(self._typed())
        draft.carried -= draft.typed
        for kind in KINDS:
            table: Any = draft.raw.get(kind)
            if isinstance(table, str):
                draft.raw[kind] = {"name": table}
            elif isinstance(table, dict) and "name" not in table:  # settings of a part to be chosen
                draft.settings[kind] = draft.raw.pop(kind)
        return draft

    def _typed(self) -> Iterator[str]:
        """The paths that are decided."""
        yield from self.parts
        for path, value in self.values.items():
            if isinstance(value, list) and all(isinstance(each, dict) for each in value):
                yield from (f"{path}.{i}.{key}" for i, each in enumerate(value) for key in each)
            else:
                yield path
        for text in self.settings:
            path = text.partition("=")[0].strip()
            yield path.removesuffix(".name") if path.removesuffix(".name") in KINDS else path


def _without_null(value: Any) -> Any:
    """A copy without keys that are left open, for which TOML has no value."""
    if isinstance(value, dict):
        return {key: _without_null(each) for key, each in value.items() if each is not None}
    return [_without_null(each) for each in value] if isinstance(value, list) else value

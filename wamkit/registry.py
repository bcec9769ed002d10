"""Finds the plugins that are installed, and sets aside those that do not work, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import pluggy

from .errors import WamkitError, did_you_mean
from .hooks import API, Hooks
from .parts import ALL_KINDS, Kind, Part
from .variables import BLOCK

GROUP = "wamkit"

Status = Literal["ok", "broken", "blocked", "incompatible"]


@dataclass(frozen=True)
class Plugin:
    """One entry point: where it comes from, what it offers, and what became of it."""

    name: str
    distribution: str
    version: str
    status: Status = "ok"
    reason: str = ""
    parts: tuple[tuple[Kind, str], ...] = ()


@dataclass
class Registry:
    """Every part that is installed, by kind and name."""

    parts: dict[str, dict[str, type[Part]]] = field(
        default_factory=lambda: {k: {} for k in ALL_KINDS}
    )
    plugins: list[Plugin] = field(default_factory=list)
    clashes: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """(kind, name) -> the distributions that all offer it; none of them can be used."""
    origin: dict[tuple[str, str], str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[type[Part]]:
        """All usable parts, by kind, then by name."""
        for kind in ALL_KINDS:
            for name in sorted(self.parts[kind]):
                yield self.parts[kind][name]

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return sorted(self.parts[kind])

    def get(self, kind: str, name: str) -> type[Part]:
        """The configuration class of a part. Raises WamkitError with the nearest name."""
        if kind not in self.parts:
            raise WamkitError(
                f"there is no kind of part called {kind!r}; the kinds are {', '.join(ALL_KINDS)}",
                did_you_mean(kind, ALL_KINDS, "choose one of the kinds above"),
            )
        if owners := self.clashes.get((kind, name)):
            raise WamkitError(
                f"{kind} {name!r} is offered by {' and by '.join(owners)}; "
                "a name must have one owner",
                f"uninstall one of them, or set {BLOCK} to the one to leave out",
            )
        if name not in self.parts[kind]:
            installed = self.names(kind)
            aside = [p.name for p in self.plugins if p.status != "ok"]
            hint = did_you_mean(name, installed, f"pip install a plugin that offers {name!r}")
            if aside:
                hint += f" (set aside: {', '.join(aside)}; `wamkit list` says why)"
            raise WamkitError(
                f"no {kind} is called {name!r}; installed: {', '.join(installed) or 'none'}", hint
            )
        return self.parts[kind][name]

    def load(self, found: Iterable[EntryPoint], blocked: Iterable[str] = ()) -> Registry:
        """Import every entry point; one that fails is set aside and stops no other."""
        leave_out = {_normal(name) for name in blocked}
        told = [(point.name, *_owner(point), point) for point in found]
        for _, owner, version, point in sorted(told, key=lambda row: row[:2]):
            if leave_out & {_normal(point.name), _normal(owner)}:
                why = f"named in {BLOCK}"
                self.plugins.append(Plugin(point.name, owner, version, "blocked", why))
                continue
            try:
                module = point.load()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                why = f"{type(error).__name__}: {error}"
                self.plugins.append(Plugin(point.name, owner, version, "broken", why))
                continue
            self.plug(module, point.name, owner, version)
        return self

    def plug(self, module: Any, name: str, distribution: str, version: str = "?") -> None:
        """Take in what one plugin registers, all of it or nothing."""
        wants = getattr(module, "WAMKIT_API", API)
        if wants != API:
            why = f"written for plugin API {wants}, this wamkit has {API}"
            self.plugins.append(Plugin(name, distribution, version, "incompatible", why))
            return
        offered: list[type[Part]] = []
        manager = pluggy.PluginManager("wamkit")
        manager.add_hookspecs(Hooks)
        try:
            manager.register(module, name=name)
            manager.check_pending()
            manager.hook.register(add=offered.append)
            keys = tuple((cls.kind, cls.model_fields["name"].default) for cls in offered)
            if not keys:
                raise WamkitError("it registers no part; does it implement `register(add)`?")
            for cls, (kind, label) in zip(offered, keys, strict=True):
                if kind not in ALL_KINDS or not isinstance(label, str):
                    raise WamkitError(f"{cls.__name__} needs a kind and a name: Literal[...] = ...")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
            self.plugins.append(Plugin(name, distribution, version, "broken", why))
            return
        for cls, key in zip(offered, keys, strict=True):
            self._add(cls, key, distribution)
        self.plugins.append(Plugin(name, distribution, version, parts=keys))

    def _add(self, cls: type[Part], key: tuple[Kind, str], distribution: str) -> None:
        kind, label = key
        if key in self.clashes:
            self.clashes[key].append(distribution)
        elif key in self.origin:
            self.clashes[key] = [self.origin[key], distribution]
            del self.parts[kind][label]
        else:
            self.origin[key] = distribution
            self.parts[kind][label] = cls


def _owner(point: EntryPoint) -> tuple[str, str]:
    """The distribution of an entry point and its version; reading them takes a millisecond."""
    if point.dist is None:
        return "an unknown distribution", "?"
    about = point.dist.metadata
    return about["Name"], about["Version"]


def _normal(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(".", "_")


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The parts installed here; plugins named in WAMKIT_BLOCK_PLUGINS are left out."""
    blocked = [name for name in os.environ.get(BLOCK, "").split(",") if name.strip()]
    return Registry().load(entry_points(group=GROUP), blocked)

"""Finds the plugins that are installed, and sets aside those that do not work, with the reason."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pluggy
from pydantic import create_model

from ..errors import WamkitError, did_you_mean, shortened
from ..files.variables import BLOCK
from .containment import TORCH, contained
from .hooks import API, Hooks
from .installation import installed, owner_of
from .part_rules import behavior_faults, faults
from .parts import ALL_KINDS, Kind, Part

FIRST_PARTY = "wamkit"
"""The distribution whose parts keep their plain names where another one offers the same."""

SHOWN = 40
"""Maximum of names that an error lists."""

Status = Literal["ok", "broken", "blocked", "incompatible"]


@dataclass(frozen=True)
class Plugin:
    """One entry point: where it comes from, its parts, and its status."""

    name: str
    distribution: str
    version: str
    status: Status = "ok"
    reason: str = ""
    parts: tuple[tuple[Kind, str], ...] = ()
    notes: tuple[str, ...] = ()
    """Changes of the process by its import, all of which were undone."""
    package: str = ""
    """Its top-level Python package."""


@dataclass
class Registry:
    """Every part that is installed, by kind and name."""

    parts: dict[str, dict[str, type[Part]]] = field(
        default_factory=lambda: {k: {} for k in ALL_KINDS}
    )
    """kind -> name -> configuration class. Where a name has two owners, the one of wamkit itself
    keeps it, and the others are called `distribution:name`."""
    plugins: list[Plugin] = field(default_factory=list)
    clashes: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """(kind, name) -> the distributions that offer it, if there are several."""
    plugin_of: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kind, name as it is in `parts`) -> the distribution."""
    _offers: Mapping[tuple[str, str], dict[str, type[Part]]] = field(default_factory=dict)
    _classes: dict[tuple[str, str], list[type[Part]]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[type[Part]]:
        """All usable parts, by kind, then by name."""
        for kind in ALL_KINDS:
            for name in sorted(self.parts[kind]):
                yield self.parts[kind][name]

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return sorted(self.parts[kind])

    def get(self, kind: str, name: str) -> type[Part]:
        """The configuration class of a part.

        Args:
            kind: One of `ALL_KINDS`.
            name: A name, or `distribution:name`, which holds whoever else offers that name.

        Raises:
            WamkitError: There is none; the nearest name is in the hint.
        """
        if kind not in self.parts:
            raise WamkitError(
                f"there is no kind of part called {kind!r}; the kinds are {', '.join(ALL_KINDS)}",
                did_you_mean(kind, ALL_KINDS, "choose one of the kinds above"),
            )
        if name in self.parts[kind]:
            return self.parts[kind][name]
        owner, colon, plain = name.rpartition(":")
        offers = self._offers.get((kind, plain), {})
        for distribution, cls in offers.items() if colon else ():
            if _normal(distribution) == _normal(owner):
                return qualified(cls, distribution)
        if owners := self.clashes.get((kind, name)):
            raise WamkitError(
                f"{kind} {name!r} is offered by {' and by '.join(owners)}",
                f"write {' or '.join(repr(f'{owner}:{name}') for owner in owners)}, "
                f"uninstall one of them, or set {BLOCK} to the one to leave out",
            )
        installed = self.names(kind)
        aside = [p.name for p in self.plugins if p.status != "ok"]
        pip = f"pip install a plugin that offers {shortened(name)!r}"
        hint = did_you_mean(name, installed, pip)
        if aside:
            hint += f" (set aside: {', '.join(aside)}; `wamkit list` has the reasons)"
        raise WamkitError(
            f"no {kind} is called {shortened(name)!r}; installed: {_list_names(kind, installed)}",
            hint,
        )

    def labels(self, kind: str, name: str) -> list[str]:
        """Qualified names of the parts of that kind and name."""
        return sorted(
            label for label in self.parts[kind] if label == name or label.endswith(f":{name}")
        )

    def blame(self, error: BaseException) -> Plugin | None:
        """The plugin in whose code `error` was raised; None if it was raised by no plugin."""
        packages = {plugin.package: plugin for plugin in self.plugins if plugin.package}
        frames, trace = [], error.__traceback__
        while trace is not None:
            frames.append(str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
            trace = trace.tb_next
        return next((packages[name] for name in reversed(frames) if name in packages), None)

    def load(self, found: Iterable[EntryPoint], blocked: Iterable[str] = ()) -> Registry:
        """Import every entry point; one that fails is set aside and stops no other."""
        leave_out = {_normal(name) for name in blocked}
        owned = [(point.name, *owner_of(point), point) for point in found]
        for _, owner, version, fault, point in sorted(owned, key=lambda row: row[:2]):
            plugin = Plugin(point.name, owner, version, package=point.value.partition(".")[0])
            if leave_out & {_normal(point.name), _normal(owner)}:
                plugin = replace(plugin, status="blocked", reason=f"named in {BLOCK}")
            elif fault:
                plugin = replace(plugin, status="broken", reason=fault)
            else:
                plugin = self._import(point, plugin)
            self.plugins.append(plugin)
        self._settle()
        return self

    def plug(self, module: Any, name: str, distribution: str, version: str = "?") -> None:
        """Take in what one module registers, all of it or nothing."""
        plugin = Plugin(name, distribution, version, package=getattr(module, "__name__", ""))
        with contained() as notes:
            status, reason, offered = _offered(module, name, API)
        self._classes[name, distribution] = offered
        self.plugins.append(replace(plugin, status=status, reason=reason, notes=tuple(notes)))
        self._settle()

    def _settle(self) -> None:
        """Name the parts, and set aside plugins whose parts fail, until none does."""
        self._index()
        while self._try_parts():
            self._index()

    def _import(self, point: EntryPoint, plugin: Plugin) -> Plugin:
        """Import the plugin and register its parts."""
        with contained(plugin.package) as notes:
            try:
                module = point.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: no plugin ends a command
                status, reason, offered = _failed(error)
            else:
                status, reason, offered = _offered(module, plugin.name)
        if status == "ok" and TORCH in notes:
            status, reason = (
                "broken",
                (
                    "it imports torch when it is imported, for which every command would wait; "
                    "import torch inside build()"
                ),
            )
        if status == "ok":
            self._classes[plugin.name, plugin.distribution] = offered
        return replace(plugin, status=status, reason=reason, notes=tuple(notes))

    def _index(self) -> None:
        """Give every part its name, from the plugins that are in use."""
        offers: dict[tuple[str, str], dict[str, type[Part]]] = {}
        for index, plugin in enumerate(self.plugins):
            if plugin.status != "ok":
                continue
            owner, classes = plugin.distribution, self._classes[plugin.name, plugin.distribution]
            twice = [key for key in map(_key, classes) if owner in offers.get(key, {})]
            if any(offers[key][owner] not in classes for key in twice):
                labels = ", ".join(" ".join(key) for key in twice)
                reason = f"another plugin of {owner} offers {labels}"
                self.plugins[index] = replace(plugin, status="broken", reason=reason)
                continue
            for cls in classes:
                if cls not in offers.get(_key(cls), {}).values():  # the same module, in two wheels
                    offers.setdefault(_key(cls), {})[owner] = cls
            keys = tuple(map(_key, classes))
            self.plugins[index] = replace(plugin, parts=keys)
        self.parts = {kind: {} for kind in ALL_KINDS}
        self.plugin_of = {}
        self.clashes = {key: list(owners) for key, owners in offers.items() if len(owners) > 1}
        self._offers = offers
        for (kind, name), owners in offers.items():
            for owner, cls in owners.items():
                plain = len(owners) == 1 or _normal(owner) == FIRST_PARTY
                label = name if plain else f"{owner}:{name}"
                self.parts[kind][label] = cls if plain else qualified(cls, owner)
                self.plugin_of[kind, label] = owner

    def _try_parts(self) -> bool:
        """Set aside plugins with a part that fails when it is asked for its facts."""
        before = list(self.plugins)
        for index, plugin in enumerate(before):
            if plugin.status != "ok":
                continue
            with contained(plugin.package) as notes:
                classes = self._classes[plugin.name, plugin.distribution]
                wrong = [fault for cls in classes for fault in behavior_faults(cls)]
            if wrong:
                kept = (*plugin.notes, *(note for note in notes if note not in plugin.notes))
                self.plugins[index] = replace(
                    plugin, status="broken", reason="; ".join(wrong), parts=(), notes=kept
                )
        return self.plugins != before


@lru_cache(maxsize=256)
def qualified(cls: type[Part], distribution: str) -> type[Part]:
    """The same part under the name `distribution:name`, which a saved spec then keeps."""
    name = f"{distribution}:{_key(cls)[1]}"
    literal: Any = Literal[name]  # type: ignore[valid-type]
    made: Any = create_model(
        cls.__name__, __base__=cls, __module__=cls.__module__, name=(literal, name)
    )
    made.__reduce__ = lambda part: (  # type: ignore[method-assign, assignment]
        _again,
        (cls, distribution, part.__getstate__()),  # type: ignore[attr-defined]
    )
    made.__doc__ = cls.__doc__
    return made  # type: ignore[no-any-return]


def _again(cls: type[Part], distribution: str, state: Any) -> Part:
    """A qualified part, from what was pickled of it for another process."""
    made = qualified(cls, distribution)
    part = made.__new__(made)
    part.__setstate__(state)
    return part


def _list_names(kind: str, names: list[str]) -> str:
    """All names, or how many there are and what lists them."""
    if len(names) > SHOWN:
        return f"{len(names)} of them, see `wamkit list {kind}`"
    return ", ".join(names) or "none"


def _key(cls: type[Part]) -> tuple[Kind, str]:
    return cls.kind, cls.model_fields["name"].default


def _failed(error: BaseException) -> tuple[Status, str, list[type[Part]]]:
    text = "".join(c if c.isprintable() else " " for c in f"{type(error).__name__}: {error}")
    return "broken", " ".join(text.split()), []


def _offered(
    module: Any, name: str, otherwise: int | None = None
) -> tuple[Status, str, list[type[Part]]]:
    """What a plugin's module registers: a status, the reason if it is not ok, and the parts.

    `otherwise` is the plugin API of a module that does not name one.
    """
    wants = getattr(module, "WAMKIT_API", otherwise)
    if wants is None:
        why = f"it does not say for which plugin API it was written; add WAMKIT_API = {API}"
        return "incompatible", why, []
    if type(wants) is not int or wants != API:
        why = f"written for plugin API {wants!r}, this wamkit has {API}"
        return "incompatible", why, []
    offered: list[type[Part]] = []
    manager = pluggy.PluginManager("wamkit")
    manager.add_hookspecs(Hooks)
    try:
        manager.register(module, name=name)
        manager.check_pending()
        manager.hook.register(add=offered.append)
        if not offered:
            raise WamkitError("it registers no part; does it implement `register(add)`?")
        wrong = [fault for cls in offered for fault in faults(cls)]
        if not wrong:
            keys = [_key(cls) for cls in offered]
            again = sorted(
                {f"{kind} {label}" for kind, label in keys if keys.count((kind, label)) > 1}
            )
            wrong += [f"it registers {label} twice" for label in again]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _failed(error)
    return ("broken", "; ".join(wrong), []) if wrong else ("ok", "", offered)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name.strip().lower())


_LOCK = threading.RLock()
_found: list[Registry] = []


def registry() -> Registry:
    """The parts installed here; plugins named in WAMKIT_BLOCK_PLUGINS are left out.

    Parts that contain others look those up here while they are tried, and find what is there by
    then.
    """
    with _LOCK:
        if not _found:
            blocked = [name for name in os.environ.get(BLOCK, "").split(",") if name.strip()]
            _found.append(Registry())
            try:
                _found[0].load(installed(), blocked)
            except BaseException:
                _found.clear()
                raise
        return _found[0]


def forget() -> None:
    """Look for plugins again at the next call of `registry`."""
    _found.clear()

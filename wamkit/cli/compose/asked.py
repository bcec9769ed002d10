"""What is typed after `wamkit compose`: as a request, and as a command line again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...config.composing import Request
from ...config.spec import read
from ...errors import WamkitError
from .short_forms import FLAGS, groups_of, kind_of, part_table, state_of, views_of


@dataclass(frozen=True)
class Asked:
    """The options of one command line."""

    parts: Mapping[str, str] = field(default_factory=dict)
    """Option without dashes, such as `backbone` or `text` -> NAME or NAME:VARIANT."""
    views: tuple[str, ...] = ()
    layout: str | None = None
    actions: tuple[str, ...] = ()
    state: str | None = None
    chunk: int | None = None
    hz: float | None = None
    like: Path | None = None
    swap: tuple[str, ...] = ()
    data: str | None = None
    key_map: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    out: Path | None = None
    force: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked for; where it is written does not count."""
        return replace(self, out=None, force=False) == Asked()

    def request(self) -> Request:
        """The request that is meant. Raises WamkitError for what cannot be read."""
        if self.swap and self.like is None:
            raise WamkitError("--swap changes a spec, and none is named", "add --like SPEC")
        parts = {FLAGS[flag]: part_table(FLAGS[flag], word) for flag, word in self.parts.items()}
        options = {FLAGS[flag]: f"--{flag} {word}" for flag, word in self.parts.items()}
        for word in self.swap:
            kind, equals, name = word.partition("=")
            if not equals or not name:
                raise WamkitError(f"--swap {word!r} names no part", "such as --swap backbone=NAME")
            kind = kind_of(kind)
            if kind in options:
                raise WamkitError(
                    f"{options[kind]} and --swap {word} both name the {kind}",
                    "leave one of them out",
                )
            options[kind] = f"--swap {word}"
            parts[kind] = part_table(kind, name)
        values: dict[str, Any] = {}
        images: Mapping[str, tuple[int, int]] = {}
        if self.data is not None:
            from .dataset import facts_of

            values, images = facts_of(self.data, self.key_map)
        if self.views:
            values["cameras.views"] = views_of(self.views)
        if self.layout is not None:
            values["cameras.layout"] = self.layout
        if self.actions:
            values["actions.groups"] = groups_of(self.actions)
        if self.state is not None:
            values |= state_of(self.state)
        if self.chunk is not None:
            values["actions.chunk_size"] = self.chunk
        if self.hz is not None:
            values["actions.control_hz"] = int(self.hz) if self.hz.is_integer() else self.hz
        base = read(self.like) if self.like is not None else {}
        return Request(parts, values, self.settings, base, images)

    def names(self) -> tuple[str, ...]:
        """Comments about the robot and its values, of a data set; none without one."""
        from .dataset import names_of

        return () if self.data is None else names_of(self.data, self.key_map)

    def with_overrides(self, overrides: Iterable[str]) -> Asked:
        """The same with overrides: parts by their options, everything else by `--set`."""
        parts, swap, settings = dict(self.parts), list(self.swap), list(self.settings)
        flags = {kind: flag for flag, kind in FLAGS.items()}
        for text in overrides:
            path, _, value = text.partition("=")
            kind, _, key = path.partition(".")
            if key == "name" and kind in flags:
                swap = [word for word in swap if kind_of(word.partition("=")[0]) != kind]
                parts[flags[kind]] = value.strip('"')
            elif key == "variant" and ":" in parts.get(flags.get(kind, ""), ""):
                name = parts[flags[kind]].rpartition(":")[0]
                parts[flags[kind]] = f"{name}:" + value.strip('"')
            else:
                settings = [one for one in settings if one.partition("=")[0].strip() != path]
                settings.append(text)
        return replace(self, parts=parts, swap=tuple(swap), settings=tuple(settings))

    def args(self) -> list[str]:
        """The command line that asks for this."""
        args = ["wamkit", "compose"]
        if self.like is not None:
            args += ["--like", str(self.like)]
        args += [w for word in self.swap for w in ("--swap", word)]
        args += [w for flag, name in self.parts.items() for w in (f"--{flag}", name)]
        if self.data is not None:
            args += ["--data", self.data]
        args += [w for word in self.key_map for w in ("--key-map", word)]
        named = {"views": ",".join(self.views), "layout": self.layout}
        named |= {"actions": ",".join(self.actions), "state": self.state}
        named["chunk"] = None if self.chunk is None else str(self.chunk)
        named["hz"] = None if self.hz is None else f"{self.hz:g}"
        args += [w for key, value in named.items() if value for w in (f"--{key}", value)]
        args += [w for text in self.settings for w in ("--set", text)]
        args += ["--out", str(self.out)] if self.out is not None else []
        return [*args, "--force"] if self.force else args

    def command(self) -> str:
        """The same as one types it in a shell."""
        return shlex.join(self.args())

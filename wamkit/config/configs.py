"""Where a spec contradicts the config.json next to its weights, and the cure; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import WamkitError
from ..files.hub import cached_path, is_remote
from ..files.locate import split_prefix
from .config_values import brief
from .parts import Caution, Conflict, Part, Weighted
from .published import Found, read_published_config
from .registry import registry


def config_conflicts(part: Part) -> Iterator[Conflict]:
    """Yield contradictions between a part and the configuration of its weights."""
    if not isinstance(part, Weighted) or not part.compares_config:
        return
    place = f"{part.kind}.weights"
    try:
        found = read_published_config(part.weights, part.published(), part.config_folders)
    except WamkitError as error:
        hint = error.hint or _reader(part) or f"name weights of {part.name}"
        yield Conflict(between=(place,), why=error.what, hint=hint)
        return
    if found is None:
        return
    if found.differing:
        differences = "; ".join(_pair(k, f, w) for k, (f, w) in found.differing.items())
        yield Conflict(
            between=(place,),
            why=f"{found.file} is that of a {found.called} which {part.name} does not compute "
            f"(found for expected): {differences}",
            hint=_reader(part) or f"name weights of {part.name} with those settings",
        )
    yield from _size_conflicts(part, found)


def unseen(part: Part) -> Iterator[Caution]:
    """Yield that the sizes of weights on the hub are not known, before they are here."""
    if not isinstance(part, Weighted) or not part.published() or not is_remote(part.weights):
        return
    try:
        here = cached_path(split_prefix(str(part.weights))[0])
    except WamkitError:
        return  # reported as a conflict
    if here is None:
        variant = getattr(part, "variant", None)
        assumed = f"those of variant {variant} and of the spec" if variant else "those of the spec"
        yield Caution(
            between=(f"{part.kind}.weights",),
            why=f"{part.weights} is not here yet, so its config.json is not read: its sizes are "
            f"not known, and {assumed} are assumed",
            hint="a build fetches config.json first and compares; or download it and check again",
        )


def _pair(key: str, found: Any, wanted: Any) -> str:
    """A setting, found for expected; of long lists, where they begin to differ."""
    lists = isinstance(found, list | tuple) and isinstance(wanted, list | tuple)
    if lists and len(found) == len(wanted) > 4:
        at = next(i for i, (f, w) in enumerate(zip(found, wanted, strict=True)) if f != w)
        return f"{key}[{at}] = {brief(found[at])} for {wanted[at]!r}"
    return f"{key} = {brief(found)} for {wanted!r}"


def _size_conflicts(part: Weighted, found: Found) -> Iterator[Conflict]:
    wrong = {
        key: (getattr(part, key), value)
        for key, value in found.fields.items()
        if getattr(part, key) != value
    }
    variant = getattr(part, "variant", None)
    table = getattr(part, "sizes", None)
    of_variant = table.get(variant, {}) if isinstance(table, dict) else {}
    by_variant = [key for key in wrong if key in of_variant and of_variant[key] == wrong[key][0]]
    if by_variant:
        differences = "; ".join(
            f"{key} = {wrong[key][0]} for {wrong[key][1]}" for key in by_variant
        )
        fits = [
            name
            for name, sizes in table.items()  # type: ignore[union-attr]
            if all(found.fields.get(key, size) == size for key, size in sizes.items())
        ]
        other = f'set variant = "{fits[0]}", ' if fits else ""
        yield Conflict(
            between=(f"{part.kind}.variant", f"{part.kind}.weights"),
            why=f"variant {variant!r} has sizes that {found.file} contradicts (spec for file): "
            f"{differences}",
            hint=f"leave {part.kind}.variant out (sizes are then read from the folder), {other}or "
            f"name the weights of {variant}",
        )
    for key, (ours, theirs) in wrong.items():
        if key not in by_variant:
            yield Conflict(
                between=(f"{part.kind}.{key}", f"{part.kind}.weights"),
                why=f"the spec says {key} = {ours!r}, {found.file} says {theirs!r}",
                hint=f"leave {part.kind}.{key} out (it is then read from the folder), or name "
                f"weights with {key} = {ours!r}",
            )


def _reader(part: Weighted) -> str | None:
    """Which other installed part reads the configuration next to these weights."""
    for cls in registry():
        label = cls.model_fields["name"].default
        if not issubclass(cls, Weighted) or not cls.published() or label == part.name:
            continue
        made: Any = cls
        try:  # the same file that this part read
            found = read_published_config(part.weights, made.published(), part.config_folders)
        except WamkitError:
            continue
        if found is not None and found.called and not found.differing:
            return f'that is the {cls.kind} {label}: set name = "{label}" in [{cls.kind}]'
    return None

"""Types, limits and values of keys, as `wamkit show` prints them."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ._folding import count

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}


def limits_of(kind: str, rules: Iterable[Any]) -> str:
    """A type with the limits of its field: they hold for the number, not for its absence."""
    limits = ", ".join(filter(None, map(_limit, rules)))
    if not limits:
        return kind
    number, absent, _ = kind.partition(" or none")
    return f"{number} {limits}{absent}"


def _limit(rule: Any) -> str:
    """`> 0` for an annotated limit of a number."""
    found = [f"{sign} {getattr(rule, key)}" for key, sign in SIGNS.items() if hasattr(rule, key)]
    return ", ".join(found)


def type_name(annotation: Any) -> str:
    """A type as one would say it: `int or none`, `"cross" or "none"`."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "none"
    if origin is Literal:
        return " or ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in inside)
    if origin in (Union, UnionType):
        return " or ".join(type_name(each) for each in inside)
    if origin is Annotated:
        return " ".join([type_name(inside[0]), *map(_limit, annotation.__metadata__)]).rstrip()
    if origin is not None:
        listed = ", ".join("..." if each is ... else type_name(each) for each in inside)
        return f"{origin.__name__}[{listed}]"
    return str(getattr(annotation, "__name__", annotation))


def cell_text(value: Any) -> str:
    """A value as a cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(v, int) for v in value) else ", ").join(map(cell_text, value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k} = {cell_text(v)}' for k, v in value.items())}}}"
    return count(value) if isinstance(value, int) else str(value)

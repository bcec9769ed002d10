"""What every table of settings refuses, whoever wrote its fields: values that only seem to fit.

Pydantic takes `true` for the integer 1 and integers of any size. Here a boolean is no number, and
an integer has a bound: what counts layers at most `MOST_LAYERS`, any other less than `MOST`, a
seed less than 2^64. In the place of a bad value pydantic gets an `Unfit`, so that its error names
the place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

MOST = 2**31
"""Integers in settings are less than this; the largest published one is 5,000,000."""
MOST_LAYERS = 4096
"""What counts layers, blocks or other modules in a row is at most this: thousands take minutes."""
SEEDS = 2**64
"""Seeds of generators are less than this."""

_ROWS = re.compile(r"(\w*_)?(layers|depth|blocks|refiners|registers|queries|proposals|futures)")


class Table(BaseModel):
    """A frozen table of settings that refuses unknown keys, infinity, and values as above."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_values(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, Mapping):
            return given
        fields = cls.model_fields
        found = {
            key: matches_type(value, fields[key].annotation, key) if key in fields else value
            for key, value in given.items()
        }
        if info.mode != "json":
            return found
        return {
            k: to_tuples(v, fields[k].annotation) if k in fields else v for k, v in found.items()
        }


class Unfit(str):
    """What was found and what was expected, in the place of a value that must not be there."""


def matches_type(value: Any, annotation: Any, key: str) -> Any:
    """`value`, with an `Unfit` in place of what the field `key` of this type must not have."""
    if isinstance(value, bool):
        wanted = _takes(annotation, bool) or not _takes(annotation, int)
        return value if wanted else Unfit(f"found {str(value).lower()}, expected a number")
    if isinstance(value, list | tuple):
        inner = _items(annotation)
        return type(value)(matches_type(item, inner, key) for item in value) if inner else value
    number = _integer(value, annotation)
    if number is None:
        return value
    if abs(number) >= SEEDS:
        return Unfit(f"found an integer of {number.bit_length()} bits, expected one of at most 64")
    if "seed" not in key and abs(number) >= MOST:
        return Unfit(f"found {number}, expected less than {MOST}")
    if _ROWS.fullmatch(key) and number > MOST_LAYERS:
        return Unfit(f"found {number}, expected at most {MOST_LAYERS}")
    return value


def to_tuples(value: Any, annotation: Any) -> Any:
    """`value` with tuples in place of lists where a field of this type holds tuples.

    JSON has no tuples: what was read from it is strictly valid only while it is still JSON, and
    here it is Python's already.
    """
    if not isinstance(value, list) or (inner := _items(annotation)) is None:
        return value
    items = [to_tuples(item, inner) for item in value]
    return tuple(items) if _holds_tuple(annotation) else items


def _holds_tuple(annotation: Any) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Union, UnionType):
        return any(_holds_tuple(inner) for inner in args)
    return origin is tuple


def _integer(value: Any, annotation: Any) -> int | None:
    """The integer that pydantic would make of `value` in a field of this type; None if none."""
    if not _takes(annotation, int) or (isinstance(value, str) and _takes(annotation, str)):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer() and not _takes(annotation, float):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9_]{1,4000}(\.0*)?\s*", value):
        digits = value.partition(".")[0].replace("_", "")
        return int(digits) if re.search("[0-9]", digits) else None
    return None


def _takes(annotation: Any, kind: type) -> bool:
    """True if a field of this type may hold a value of `kind`, or may hold anything."""
    if annotation is Any or annotation is object or annotation is kind:
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _takes(args[0], kind)
    if origin in (Union, UnionType):
        return any(_takes(inner, kind) for inner in args)
    if origin is Literal:
        return any(type(value) is kind for value in args)
    return bool(kind is int and annotation is float)


def _items(annotation: Any) -> Any:
    """The type of the items of a list or tuple; None if it is not one."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _items(args[0])
    if origin in (Union, UnionType):
        return next((found for inner in args if (found := _items(inner)) is not None), None)
    if origin in (list, tuple) and args:
        plain = [inner for inner in args if inner is not Ellipsis]
        return plain[0] if len(set(plain)) == 1 else reduce(or_, plain)
    return None

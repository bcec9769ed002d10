"""A paradigm inside another's settings: a table within the table, under the key `inner`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, WithJsonSchema

from ..errors import SpecError
from .parts import Conflict, ParadigmConfig
from .spec import parse_part


def parse_paradigm(given: Any) -> Any:
    """A paradigm from its name or table; mistakes are reported at their place in the spec."""
    if isinstance(given, ParadigmConfig):
        return given
    try:
        return parse_part("paradigm", given)
    except SpecError as error:
        raise SpecError([within(c) for c in error.conflicts], "paradigm.inner") from None


def within(conflict: Conflict) -> Conflict:
    """A conflict of the inner paradigm, at its place in the spec."""
    places = (_place(*place.partition(".")) for place in conflict.between)
    return conflict.model_copy(update={"between": tuple(places)})


def _place(first: str, dot: str, rest: str) -> str:
    return f"{first}.inner{dot}{rest}" if first == "paradigm" else f"{first}{dot}{rest}"


Inner = Annotated[
    SerializeAsAny[ParadigmConfig],
    BeforeValidator(parse_paradigm),
    WithJsonSchema(
        {
            "description": "The table of another paradigm.",
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        }
    ),
]
"""The type of a setting that is a paradigm."""

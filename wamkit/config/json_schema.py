"""The JSON schema of a spec, as it is for files that extend another and hold a part of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .extends import EXTENDS, UNSET

EXTENDS_FORM = {
    "type": "string",
    "description": "Path of the spec that this one extends, relative to this file.",
}
UNSET_FORM = {
    "type": "array",
    "items": {"type": "string"},
    "description": "Keys that the base sets and that do not hold here, by dotted paths.",
}


def allow_extends(
    schema: Mapping[str, Any], kinds: Iterable[str], sections: Mapping[str, str]
) -> dict[str, Any]:
    """`schema`, of whole specs, such that one that says `extends` may leave out anything.

    Tables of parts need no `name` then, and sections none of the keys they must have otherwise.
    `sections` are the tables of a spec and the names of their definitions.
    """
    properties, definitions = dict(schema["properties"]), dict(schema["$defs"])
    needs: dict[str, Any] = {}
    for kind in kinds:
        form = {k: v for k, v in properties[kind].items() if k != "discriminator"}
        if "oneOf" in form:  # without a name, a table may be of several parts
            form["anyOf"] = form.pop("oneOf")
        properties[kind] = form
    for section, name in sections.items():
        if required := definitions.get(name, {}).get("required"):
            definitions[name] = {k: v for k, v in definitions[name].items() if k != "required"}
            needs[section] = {"required": required}
    return {
        **{key: value for key, value in schema.items() if key != "required"},
        "$defs": definitions,
        "properties": {EXTENDS: EXTENDS_FORM, UNSET: UNSET_FORM, **properties},
        "if": {"required": [EXTENDS]},
        "else": {"required": schema["required"], "properties": needs},
    }

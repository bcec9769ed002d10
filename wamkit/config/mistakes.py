"""Messages for mistakes in a table: what was found, what may stand there, and what to write.

Pydantic finds them. Here each gets the values that are allowed, the nearest of them, and the place
where a key that is unknown would be known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import SpecError, did_you_mean, shortened
from .describe import models_in
from .parts import Conflict
from .renamed_keys import rename_keys
from .values import Unfit

Place = tuple[int | str, ...]

MANY = 50
"""Mistakes of one table that are listed; there may be thousands in a damaged file."""
_EMPTIED = ("too_short", "too_long")
"""What pydantic says of a list besides what is wrong with its items, which it counts as gone."""


def explain_mistakes(
    error: ValidationError,
    where: str,
    cls: type[BaseModel],
    elsewhere: Mapping[str, type[BaseModel]] | None = None,
) -> list[Conflict]:
    """Convert pydantic's errors about the table `where` of the form `cls` to messages of wamkit.

    `elsewhere` are the other tables of the file, by name, in which an unknown key may belong.
    """
    found: list[Conflict] = []
    items = error.errors(include_url=False)
    more, items = len(items) - MANY, items[:MANY]
    places = [tuple(item["loc"]) for item in items]
    for item, loc in zip(items, places, strict=True):
        if isinstance(nested := item.get("ctx", {}).get("error"), SpecError):
            found += nested.conflicts
            continue
        inner = any(len(other) > len(loc) and other[: len(loc)] == loc for other in places)
        if item["type"] in _EMPTIED and inner:
            continue
        place = ".".join([*([where] if where else []), *(shortened(str(key)) for key in loc)])
        why, hint = _words(item, loc, where, cls, elsewhere or {})
        found.append(Conflict(between=(place or where,), why=why, hint=hint))
    if more > 0:
        found.append(rest(where, more))
    return found


def rest(where: str, count: int) -> Conflict:
    """Placeholder line for mistakes that are not listed."""
    return Conflict(
        between=(where,),
        why=f"{count} more mistakes",
        hint="correct those above, then look again",
    )


def home_of(key: str, forms: Mapping[str, type[BaseModel]]) -> str | None:
    """Where in these tables `key`, or a key much like it, belongs; None if nowhere."""
    best, place = 0.0, None
    for name, form in forms.items():
        for path, known in _keys(form, name):
            likeness = SequenceMatcher(None, key.lower(), known).ratio()
            if likeness > max(best, 0.6):
                best, place = likeness, path
    return place


def example(form: type[BaseModel], name: str | None = None) -> str:
    """A table of this form as one writes it in TOML: what it must have, and what decides most."""
    written = []
    for key, field in form.model_fields.items():
        if field.is_required() or key in ("name", "size"):
            value = name if key == "name" and name else _value(field)
            written.append(f"{key} = {json.dumps(value) if isinstance(value, str) else value}")
    return "{ " + ", ".join(written) + " }"


def keys_of(form: type[BaseModel]) -> str:
    """What is written in a table: what it must have with an example, and the names of the rest."""
    must = [k for k, f in form.model_fields.items() if f.is_required()]
    forms = [f"{k} = {_form_of(form.model_fields[k], k)}" for k in must]
    rest = [k for k in form.model_fields if k not in must]
    keys_text = " and ".join(forms)
    return (
        f"{keys_text}; it also knows {', '.join(rest)}"
        if must and rest
        else keys_text or ", ".join(rest)
    )


def _words(
    item: Any, loc: Place, where: str, cls: type[BaseModel], elsewhere: Mapping[str, Any]
) -> tuple[str, str]:
    """Message for one wrong value, with an example."""
    key, kind = str(loc[-1]) if loc else where, item["type"]
    table = _model_at(cls, loc[:-1])
    if kind == "extra_forbidden":
        return "no such key", _belongs(key, loc, where, cls, table, elsewhere)
    field = table.model_fields.get(key) if table is not None else None
    if isinstance(item["input"], Unfit):
        return str(item["input"]), _hint(kind, item, key, loc, cls, field)
    if kind == "missing":
        return "it is missing", f"add {key} = {_form_of(field, key) if field else '...'}"
    why = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    why = why.removeprefix("value error, ")
    if not isinstance(item["input"], Mapping | BaseModel):
        why += f", found {shortened(repr(item['input']))}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'|(-?\d+)", item["ctx"]["expected"])
        known = [word or number for word, number in allowed]
        if field is not None and (literal := allowed_values(field.annotation)):
            known = [str(value) for value in literal]
        listed = f"write one of {', '.join(known)}"
        near = did_you_mean(str(item["input"]), known)
        return why, f"{near} {listed}" if near else listed
    hint = _hint(kind, item, key, loc, cls, field)
    return why, hint


def _hint(
    kind: str, item: Any, key: str, loc: Place, cls: type[BaseModel], field: FieldInfo | None
) -> str:
    """What to write in the place of a value of another kind."""
    given = item["input"]
    form = next(iter(models_in(field.annotation)), None) if field is not None else None
    if form is None and loc and isinstance(loc[-1], int):  # an item of a list of tables
        form = _model_at(cls, loc)
        if form is not None:
            name = given if isinstance(given, str) and given.isidentifier() else None
            return f"write a table: {example(form, name)}"
    if form is not None and kind != "value_error":
        several = field is not None and "tuple" in str(field.annotation)
        names = re.findall(r"[A-Za-z_]\w*", given) if isinstance(given, str) else []
        tables = ", ".join(example(form, name) for name in names[:3]) or example(form)
        return f"write {key} = [{tables}]" if several else f"write {key} = {tables}"
    if kind.startswith("bool"):
        return f"write {key} = true or {key} = false"
    if kind.startswith(("int", "float", "decimal")):
        number = "a whole number" if kind.startswith("int") else "a number"
        return f"write {number}" + (f", such as {key} = {_value(field)}" if field else "")
    if kind.startswith("string"):
        return f'write text in quotes: {key} = "..."'
    if kind in ("tuple_type", "list_type", "too_short", "too_long", "missing_argument"):
        return f"write a list, such as {key} = {_value(field)}" if field else "write a list"
    if kind.startswith(("greater", "less")):
        limits = {k: v for k, v in item.get("ctx", {}).items() if k in ("gt", "ge", "lt", "le")}
        phrases = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
        bounds = " and ".join(f"{phrases[k]} {v:g}" for k, v in limits.items())
        return f"write a number {bounds}"
    if field is not None and not field.is_required():
        default = field.get_default(call_default_factory=True)
        meant = "" if default is None else f" for {_value(field) if default else default}"
        return f"change it, or leave {key} out{meant}"
    return "change it as described"


def _belongs(
    key: str,
    loc: Place,
    where: str,
    cls: type[BaseModel],
    table: type[BaseModel] | None,
    elsewhere: Mapping[str, type[BaseModel]],
) -> str:
    """The nearest key of the same table; or the place of a key like it, deeper, higher or next to.

    The same name elsewhere is more than a name like it here.
    """
    keys = list(table.model_fields) if table is not None else []
    prefix = ".".join([*([where] if where else []), *map(str, loc[:-1])])
    below = home_of(key, {prefix: table}) if table is not None else None
    others = {name: form for name, form in elsewhere.items() if name != where}
    sibling = home_of(key, {**({where: cls} if where and len(loc) > 1 else {}), **others})
    for place in (below, sibling):
        if place is not None and place.rpartition(".")[2].lower() == key.lower():
            return f"it belongs elsewhere: {place}"
    if new := rename_keys(key, keys):
        return f"did you mean {new!r}?"
    if near := did_you_mean(key, keys):
        return near
    if below is not None:
        return f"it belongs to one of its tables: did you mean {below}?"
    known = f"known are {', '.join(keys)}"
    return f"{known}; or did you mean {sibling}?" if sibling else known


def _keys(form: type[BaseModel], path: str) -> Iterator[tuple[str, str]]:
    """Path and name of every key of a table and of the tables in it."""
    for key, field in form.model_fields.items():
        here = f"{path}.{key}" if path else key
        yield here, key
        for inner in models_in(field.annotation):
            many = "tuple" in str(field.annotation)
            yield from _keys(inner, f"{here}[0]" if many else here)


def _model_at(cls: type[BaseModel], loc: Place) -> type[BaseModel] | None:
    """The form of the table at `loc` below `cls`."""
    model: type[BaseModel] | None = cls
    for key in loc:
        if isinstance(key, int) or model is None:
            continue
        field = model.model_fields.get(key)
        model = next(iter(models_in(field.annotation)), None) if field is not None else None
    return model


def allowed_values(annotation: Any) -> list[Any]:
    """The values of a type that lists them."""
    if "Literal" in str(getattr(annotation, "__origin__", "")):
        return list(get_args(annotation))
    return [v for a in get_args(annotation) if not isinstance(a, str) for v in allowed_values(a)]


def _form_of(field: FieldInfo, key: str) -> str:
    """Example value of a key."""
    if forms := models_in(field.annotation):
        table = example(forms[0])
        return f"[{table}]" if "tuple" in str(field.annotation) else table
    if allowed := allowed_values(field.annotation):
        return f"one of {', '.join(map(str, allowed))}"
    value = _value(field)
    return json.dumps(value) if isinstance(value, str) else str(value)


def _value(field: FieldInfo | None) -> Any:
    """A value for an example: the default, or one of the right kind."""
    if field is None:
        return "..."
    if not field.is_required() and (value := field.get_default(call_default_factory=True)):
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    text = str(field.annotation)
    if "int" in text:
        return [1, 1] if "tuple" in text else 7
    if "float" in text:
        return 1.0
    return "..."

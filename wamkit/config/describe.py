"""The meaning of keys: the docstrings beneath the fields of a model, read when someone asks.

Pydantic can do this for every class as it is made, which costs a fifth of a second at each start.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel


def meanings(cls: type[BaseModel]) -> dict[str, str]:
    """field -> its docstring on one line, those of base classes included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _docstrings(base)
    return found


def describe(cls: type[BaseModel]) -> None:
    """Write the docstrings into the fields of `cls` and of the models inside it, for its schema."""
    for name, text in meanings(cls).items():
        if name in cls.model_fields:
            cls.model_fields[name].description = text
    for field in cls.model_fields.values():
        for model in models_in(field.annotation):
            describe(model)
    cls.model_rebuild(force=True)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


@cache
def _docstrings(cls: type[BaseModel]) -> dict[str, str]:
    """field -> the string right below it in the source of this class alone."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # made at run time: there is no source
        return {}
    found, field = {}, None
    for node in body.body if isinstance(body, ast.ClassDef) else ():
        value = node.value if isinstance(node, ast.Expr) else None
        if field and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[field] = " ".join(value.value.split())
        target = node.target if isinstance(node, ast.AnnAssign) else None
        field = target.id if isinstance(target, ast.Name) else None
    return found

"""Rules that a configuration class must fulfill to be registered as a part."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from .importing import ImporterConfig
from .parts import (
    ALL_KINDS,
    ActionHeadConfig,
    BackboneConfig,
    EnvironmentConfig,
    ParadigmConfig,
    Part,
    TextEncoderConfig,
    Traits,
    VAEConfig,
)

BASES: Mapping[str, type[Part]] = {
    "backbone": BackboneConfig,
    "vae": VAEConfig,
    "text_encoder": TextEncoderConfig,
    "action_head": ActionHeadConfig,
    "paradigm": ParadigmConfig,
    "environment": EnvironmentConfig,
    "importer": ImporterConfig,
}
"""kind -> the class that parts of that kind are derived from."""
MUST_DEFINE: Mapping[str, tuple[str, ...]] = {
    "backbone": ("traits", "build"),
    "vae": ("channels", "stride", "_build"),
    "text_encoder": ("width", "max_tokens", "build"),
    "action_head": ("tokens", "build"),
    "paradigm": ("sees", "program", "build"),
    "environment": ("build",),
    "importer": ("recognizes", "read"),
}
"""kind -> members that the part must implement."""
FACTS: Mapping[str, Mapping[str, Any]] = {
    "backbone": {"traits": Traits},
    "vae": {"channels": int, "stride": tuple},
    "text_encoder": {"width": int, "max_tokens": int},
    "paradigm": {"sees": Mapping, "predicts": tuple},
}
"""kind -> facts that every command may ask for before anything is built, and their types."""
NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
LONGEST_NAME = 64
TORCH_LOADED = 17
"""Exit code of a process in which torch was loaded."""


def faults(offered: Any) -> list[str]:
    """Every reason why `offered` cannot be registered, as far as its class shows; none if sound."""
    if not (isinstance(offered, type) and issubclass(offered, Part)):
        return [f"add() takes a configuration class of wamkit.config.parts, found {offered!r}"]
    label = offered.__name__
    kind = getattr(offered, "kind", None)
    if kind not in ALL_KINDS:
        return [f"{label} has the kind {kind!r}; expected one of {', '.join(ALL_KINDS)}"]
    found = []
    if not issubclass(offered, BASES[kind]):
        found.append(f"{label} is a {kind} and must be derived from {BASES[kind].__name__}")
    found += _name_faults(offered)
    found += [
        f"{label} does not define {member}"
        for member in MUST_DEFINE[kind]
        if getattr(offered, member, None) is getattr(BASES[kind], member)
    ]
    if not _strings(offered.requires):
        found.append(f"{label}.requires is {offered.requires!r}; expected a tuple of module names")
    found += [
        f"{label}.{key} is {getattr(offered, key)!r}; expected a string"
        for key in ("license", "source")
        if not isinstance(getattr(offered, key), str)
    ]
    return found


def _strings(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _name_faults(cls: type[Part]) -> list[str]:
    field = cls.model_fields.get("name")
    if field is None:
        return [f"{cls.__name__} has no field `name`"]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    form = f'write `name: Literal["{_slug(cls.__name__)}"] = "{_slug(cls.__name__)}"`'
    if len(choices) != 1 or not isinstance(choices[0], str):
        return [f"the name of {cls.__name__} is not a Literal with one value; {form}"]
    name = choices[0]
    if field.default != name:
        return [f"{cls.__name__} has the default name {field.default!r}; expected {name!r}"]
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        return [
            f"{name!r} cannot name a part: use lower-case letters and digits joined by single "
            f"`_`, `-` or `.`, at most {LONGEST_NAME} characters, such as {_slug(name)!r}"
        ]
    return []


def _slug(text: str) -> str:
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")[:LONGEST_NAME] or "my_part"


def behavior_faults(cls: type[Part]) -> list[str]:
    """What fails when the part is made from its name alone and asked for its facts.

    Everything that commands ask of a part without building it is asked here once, so that a part
    that fails does so where its distribution can be named, and not in a command that lists all.
    Parts that contain others, such as a paradigm inside a paradigm, need those to be registered.
    """
    label = cls.__name__
    try:
        part = cls()  # type: ignore[call-arg]  # that it has a default name was seen above
    except ValidationError as error:
        reasons = "; ".join(
            ".".join(map(str, item["loc"])) + f": {item['msg']}"
            for item in error.errors(include_url=False)
        )
        return [f"{label} cannot be made from its name alone, give it defaults: {reasons}"]
    except Exception as error:
        return [f"{label} cannot be made from its name alone: {type(error).__name__}: {error}"]
    found = []
    for fact, kind in FACTS.get(cls.kind, {}).items():
        try:
            value = getattr(part, fact)
        except Exception as error:
            found.append(f"{label}.{fact} fails: {type(error).__name__}: {error}")
            continue
        if not isinstance(value, kind):
            found.append(f"{label}.{fact} is {value!r}; expected {kind.__name__}")
    for action in ("tiny", "model_dump", "default_parts"):
        try:
            made = getattr(part, action)()
        except Exception as error:
            found.append(f"{label}.{action}() fails: {type(error).__name__}: {error}")
            continue
        if action == "tiny" and not isinstance(made, Part | dict):
            found.append(f"{label}.tiny() returns {made!r}; expected a part or a table")
    return found


@lru_cache(maxsize=256)
def imports_torch(package: str) -> bool:
    """True if importing `package` loads torch, as a fresh process shows."""
    script = (
        "import importlib, sys; importlib.import_module(sys.argv[1]); "
        f"sys.exit({TORCH_LOADED} if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, package],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
    )
    return done.returncode == TORCH_LOADED


def schema_fault(cls: type[Part]) -> str:
    """Why the part has no JSON schema; empty if it has one."""
    try:
        cls.model_json_schema()
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else ""
        return f"{cls.__name__} has no JSON schema: {type(error).__name__}: {first}"
    return ""

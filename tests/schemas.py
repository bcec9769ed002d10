"""The JSON schemas of docs/schemas, for tests of what commands print with `--json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from wamkit.cli import VERBS, verb

FOLDER = Path(__file__).parent.parent / "docs" / "schemas"


def verbs_with_json() -> list[str]:
    """Every command that has the option `--json`."""
    return [name for name in VERBS if any("--json" in p.opts for p in verb(name).params)]


@cache
def validator(name: str) -> Draft202012Validator:
    """Of what the command `name` prints. Fails, and says what to add, if it has no schema."""
    file = FOLDER / f"{name}.json"
    assert file.is_file(), (
        f"`wamkit {name} --json` has no schema: write docs/schemas/{name}.json (copy a small one, "
        "such as build.json), list it in docs/json.md, and add a command line to COMMANDS in "
        "tests/test_json.py"
    )
    schema = json.loads(file.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def expect_valid(name: str, text: str) -> dict[str, Any]:
    """What the command `name` printed, as data. Fails with every deviation from its schema."""
    found: dict[str, Any] = json.loads(text)
    faults = [f"{e.json_path}: {e.message[:300]}" for e in validator(name).iter_errors(found)]
    assert not faults, f"`wamkit {name} --json` is not as docs/schemas/{name}.json has it:\n" + (
        "\n".join(faults)
    )
    return found

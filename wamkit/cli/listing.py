"""`wamkit list`: the parts that are installed, and the plugins that were set aside."""

from __future__ import annotations

import re
from collections import Counter
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from ..config.parts import ALL_KINDS, EnvironmentConfig, Part
from ..config.registry import registry
from ..errors import WamkitError, did_you_mean
from ._options import Json, complete_kind
from ._output import emit, say, show_table, table

EXAMPLE = "wamkit list backbone"


def command(
    kind: Annotated[
        str | None,
        typer.Argument(help="Only parts of this kind.", autocompletion=complete_kind),
    ] = None,
    json: Json = False,
) -> None:
    """List the installed parts, and plugins that were set aside."""
    if kind is not None and kind not in ALL_KINDS:
        raise WamkitError(
            f"there is no kind of part called {kind!r}; the kinds are {', '.join(ALL_KINDS)}",
            did_you_mean(kind, ALL_KINDS, "choose one of the kinds above"),
        )
    found = registry()
    parts = [describe_part(cls) for cls in found if kind in (None, cls.kind)]
    skipped = [
        {"plugin": p.name, "from": p.distribution, "status": p.status, "reason": p.reason}
        for p in found.plugins
        if p.status != "ok"
    ]
    clashes = [
        {"kind": k, "name": n, "from": owners, "write": found.labels(k, n)}
        for (k, n), owners in found.clashes.items()
    ]
    if json:
        emit({"parts": parts, "skipped": skipped, "clashes": clashes})
        return
    _draw(parts)
    if skipped:
        say("\nSet aside:", "bold")
        for entry in skipped:
            say(f"  {entry['plugin']} (from {entry['from']}), {entry['status']}: {entry['reason']}")
    if clashes:
        say("\nOffered more than once:", "bold")
        for clash in clashes:
            names = " or ".join(clash["write"])
            say(f"  {clash['kind']} {clash['name']}: {', '.join(clash['from'])}; write {names}")


def _draw(parts: list[dict[str, Any]]) -> None:
    """A table for each kind; defaults of all parts are listed once, above."""
    usual = {key: _most([row[key] for row in parts]) for key in ("from", "license")}
    if parts:
        license, origin = usual["license"], usual["from"]
        say(f"unless noted otherwise: license {license}, from {origin}")
    for kind in dict.fromkeys(row["kind"] for row in parts):
        say(f"\nkind {kind}", "bold")
        made = table("name", "description", keep=("name",))
        for row in parts:
            if row["kind"] == kind:
                made.add_row(row["name"], _text(row, usual))
        made.show_header = False
        show_table(made)


def _text(row: dict[str, Any], usual: dict[str, str]) -> str:
    """The summary of a part, and its deviations from the defaults."""
    needs = [f"{m} (missing)" if m in row["missing"] else m for m in row["needs"]]
    more = [f"{key} {row[key]}" for key in ("license", "from") if row[key] != usual[key]]
    if needs:
        more.append(f"needs {', '.join(needs)}")
    if row.get("suites"):
        more.append(f"suites {', '.join(row['suites'])}")
    return f"{row['summary']}; {'; '.join(more)}" if more else row["summary"]


def _most(values: list[str]) -> str:
    return Counter(values).most_common(1)[0][0] if values else ""


def describe_part(cls: type[Part]) -> dict[str, Any]:
    """The facts of `list` about one part."""
    name = cls.model_fields["name"].default
    suites = {"suites": list(cls.suites)} if issubclass(cls, EnvironmentConfig) else {}
    return {
        "kind": cls.kind,
        "name": name,
        "summary": summary(cls),
        "from": registry().plugin_of[cls.kind, name],
        "license": cls.license,
        "needs": list(cls.requires),
        "missing": [module for module in cls.requires if find_spec(module) is None],
        **suites,
    }


def summary(cls: type[Part]) -> str:
    """The first sentence of a part's docstring."""
    text = " ".join((cls.__doc__ or "").split())
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0].rstrip(".")

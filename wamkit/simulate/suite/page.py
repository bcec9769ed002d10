"""The page of a suite: one HTML file, which asks the network for nothing, and films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import WamkitError, printable
from ...files import strict_json
from ...files.durable import write_text
from ...files.install import install_hint
from .files import FILMS, PAGE, SuiteFolder

HERE = Path(__file__).parent
WIDTH = 200
"""Pixels of the whole scale, 0 to 100 %, of a bar."""


def write_page(place: SuiteFolder, result: Mapping[str, Any]) -> Path:
    """Write the page of a result (`results.result_of`). Raises WamkitError without Jinja2."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise WamkitError(
            "the page is made with Jinja2, which is not installed", install_hint("plots")
        ) from None
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda v: v if isinstance(v, Markup) else printable(str(v)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    text = made.get_template("page.html.j2").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        result=result,
        tasks=[_task(row, result["per_episode"]) for row in result["tasks"]],
        width=WIDTH,
        facts=_facts(result),
    )
    write_text(place.folder / PAGE, text)
    return place.folder / PAGE


def _task(row: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table with its films, and one mark for each episode."""
    own = [e for e in episodes if e["task"] == row["task"]]
    films = [
        {**e, "src": f"{FILMS}/{quote(e['film'])}", "moves": e["film"].endswith(".gif")}
        for e in own
        if e["film"]
    ]
    return {**row, "films": sorted(films, key=lambda e: not e["success"]), "all": own}


def _facts(result: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Headings with rows of names and values: all that the result was computed with."""
    settings = dict(result["settings"])
    sections = {
        "Policy": {"policy": result["policy"], **settings.pop("policy")},
        "Environment": settings.pop("environment"),
        "Real time": result.get("real_time", {}),
        "Protocol": {**settings, "control_hz": result["control_hz"]},
        "Rendering": result["rendering"],
        "Versions": result["versions"],
        "Command": {
            "command": " ".join(result["command"]),
            "begun": result["begun"],
            "starts": result["starts"],
            "machine": result["machine"],
            "device": result["device"],
        },
    }
    return {
        heading: [(str(name), _text(value)) for name, value in rows.items()]
        for heading, rows in sections.items()
        if rows
    }


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return strict_json.dumps(value)

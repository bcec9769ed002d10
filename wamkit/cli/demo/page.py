"""The report: one HTML file that asks the network for nothing, from the template report.html."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from ...errors import printable
from ...files import plots
from ...files.durable import write_text
from .._imagined import LABELS
from . import figures
from .film import SLOWER
from .imagined import draw_quality, longest
from .stages import Demo, Found, Way

HERE = Path(__file__).parent
STAGES = {
    "observation": "rendering the camera image, one simulator",
    "policy": "choosing actions, all episodes of a round in one batch",
    "environment": "simulating one action",
}


def write(file: Path, demo: Demo, explanation: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the page; `explanation` maps each built paradigm to its `explain`."""
    done = [way for way in demo.ways if way.result is not None]
    imagined = _imagined(done)
    with plots.style():
        values = {
            "style": (HERE / "page.css").read_text(),
            "settings": demo.settings,
            "slower": SLOWER,
            "stages": STAGES,
            "ways": demo.ways,
            "done": done,
            "best": done[0] if done else None,
            "facts": explanation,
            "imagines": {way.name: _imagines(explanation[way.name]) for way in done},
            "film": demo.film,
            "clips": _clips(file.parent / done[0].name, demo.film) if done and demo.film else [],
            "results": _results(demo, done, explanation),
            "times": _times(demo),
            "labels": LABELS,
            "imagined": imagined,
            "copied": longest(imagined) if imagined else [],
            "unmeasured": _unmeasured(done),
            "drawn": _drawn(demo, done, explanation),
        }
    write_text(file, _environment().get_template("report.html").render(values))
    return file


def _environment() -> Any:
    """Jinja2's; what a template prints is printable and escaped, and nothing is left out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def as_text(value: Any) -> Any:
        return value if isinstance(value, Markup) else printable(str(value))

    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=as_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["duration"] = _duration
    return made


def _drawn(demo: Demo, done: list[Way], explanation: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of the page."""
    results = {way.name: way.result for way in done if way.result is not None}
    imagined = _imagined(done)
    found: dict[str, Any] = {"results": figures.draw_results({**results, **demo.baselines})}
    if imagined:
        found["quality"] = draw_quality(imagined)
    for way in done:
        assert way.result is not None and way.spec is not None
        found[way.name] = {
            "attention": figures.draw_attention(explanation[way.name]),
            "timeline": figures.draw_timeline(way.spec, way.result["execute_steps"]),
            "losses": figures.draw_losses(way.log),
        }
    return found


def _imagined(done: list[Way]) -> dict[str, Any]:
    """paradigm -> the quality of its imagined frames by horizon, of those that were measured."""
    found = ((way.name, way.imagined) for way in done)
    return {name: one["imagined"] for name, one in found if one and "problem" not in one}


def _unmeasured(done: list[Way]) -> dict[str, list[str]]:
    """Why imagined frames were not measured -> the paradigms of which that is so."""
    found: dict[str, list[str]] = {}
    for way in done:
        if way.imagined and "problem" in way.imagined:
            found.setdefault(way.imagined["problem"], []).append(way.name)
    return found


def _results(demo: Demo, done: list[Way], explanation: Mapping[str, Any]) -> list[Found]:
    """The rows of the table of results, the best policy first."""
    rows = []
    for name, found in [*((way.name, way.result) for way in done), *demo.baselines.items()]:
        assert found is not None
        passes = None
        if name in explanation:
            passes = sum(stage["passes"] for stage in explanation[name]["program"])
        rows.append({"name": name, "passes": passes, "ms": None, **found})
        if "latency_ms" in found:
            rows[-1]["ms"] = found["latency_ms"]["policy"]["p50"]
    return rows


def _imagines(facts: Mapping[str, Any]) -> bool:
    """Whether a decision runs the tokens of frames to come through the network."""
    roles = {role for stage in facts["program"] for role in stage["roles"]}
    return any(role.rstrip("'").partition(".")[0] == "target" for role in roles)


def _clips(place: Path, film: Found) -> list[Found]:
    """The films of the page, each with its data and a still for those who want no motion."""
    from ...files.images import open_image

    made = []
    for clip in film["clips"]:
        file, still = place / clip["file"], BytesIO()
        with open_image(file, str(file)) as moving:
            size = moving.size
            moving.seek(getattr(moving, "n_frames", 1) // 2)
            moving.convert("RGB").save(still, "WEBP", quality=70)
        data = {"src": _webp(file.read_bytes()), "still": _webp(still.getvalue()), "size": size}
        made.append({**clip, **data})
    return made


def _webp(raw: bytes) -> str:
    return f"data:image/webp;base64,{b64encode(raw).decode()}"


def _times(demo: Demo) -> list[tuple[str, float]]:
    """What every stage took, in seconds."""
    count = f"{demo.data['episodes']} demonstrations, {demo.data['frames']} images"
    rows = [(count, demo.data["seconds"])]
    rows += [(f"evaluation of {name}", one["seconds"]) for name, one in demo.baselines.items()]
    for way in demo.ways:
        for label, found in (("training", way.training), ("evaluation", way.result)):
            if found is not None:
                rows.append((f"{label} of {way.name}", found["seconds"]))
    if demo.film is not None:
        rows.append(("films", demo.film["seconds"]))
    return rows


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

"""Pages, figures and cards: what names and messages say is text in them, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from wamkit import build
from wamkit.cli.demo import figures, page
from wamkit.cli.demo.stages import Demo, Settings, Way, spec_of
from wamkit.cli.explain import explain_spec
from wamkit.cli.matrix import markdown
from wamkit.config.compositions import Cell
from wamkit.config.parts import Conflict
from wamkit.files import plots
from wamkit.files.printable import escape_markdown
from wamkit.policy.saving import model_card

BAD = [
    "<script>alert(1)</script>",
    "</title></style></svg><img src=x onerror=alert(1)>",
    "\" onload='alert(1)' x=\"",
    "]]><!--",
    "javascript:alert(1)",
    "&lt;b&gt;&#0;",
    "a\x00\x1b[31m\u202eb",
    "half \udc80",
]
DRAWN = {"svg", "g", "defs", "style", "path", "text", "use", "clipPath", "rect", "tspan"}
RDF = {"metadata", "RDF", "Work", "type", "format"}  # of a file: what kind of image it is
TAGS = {
    *("html", "head", "meta", "title", "link", "style", "body", "main", "header", "section", "em"),
    *("p", "h1", "h2", "h3", "div", "figure", "figcaption", "details", "summary", "strong", "span"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "picture", "source", "img", "code"),
    *("dl", "dt", "dd"),
    *DRAWN,
}
RESULT: dict[str, Any] = {
    "episodes": 4,
    "successes": 3,
    "success_rate": 0.75,
    "interval_95": [0.3, 0.95],
    "steps_to_success": 60.0,
    "execute_steps": 4,
    "chunk_size": 8,
    "batch": 2,
    "control_hz": 80.0,
    "latency_ms": {"policy": {"p50": 20.0, "p95": 30.0}},
    "seconds": 12.0,
}


def expect_only_text(text: str, bad: str, *, tags: set[str]) -> None:
    """The page is well-formed, has the usual elements and attributes alone, and shows `bad`."""
    text.encode()
    root = ElementTree.fromstring(text)
    for element in root.iter():
        assert element.tag.rpartition("}")[2] in tags, element.tag
        for name, value in element.attrib.items():
            assert not name.startswith("on"), name
            if name.rpartition("}")[2] in ("src", "srcset", "href"):
                assert value.startswith(("data:", "#")), value
    printed = " ".join(root.itertext())
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert re.sub(r"[\x00\x1b\u202e\udc80]", "", bad)[:9] in printed or "\\x00" in printed


@pytest.mark.parametrize("bad", BAD)
def test_every_field_of_the_report_is_text(tmp_path: Path, bad: str) -> None:
    from PIL import Image

    spec = spec_of(None, 0)
    explanation = explain_spec(spec)
    for part in explanation["parts"]:
        part["name"] = bad
    explanation["roles"] = {f"{role}{bad}": count for role, count in explanation["roles"].items()}
    explanation["sees"] = {
        f"{a}{bad}": [f"{b}{bad}" for b in bs] for a, bs in explanation["sees"].items()
    }
    explanation["program"] = [
        {**stage, "does": bad, "roles": [bad]} for stage in explanation["program"]
    ]
    log = tuple({"step": i, "parts": {bad: 1.0 + i}} for i in (1, 2))
    Image.new("RGB", (8, 8)).save(tmp_path / "film.webp")
    latency = {bad: {"p50": 1.0, "p95": 2.0}, **RESULT["latency_ms"]}
    result = {**RESULT, "latency_ms": latency, "successes": bad}
    clip = {"who": bad, "file": "../film.webp", "seed": bad, "success": True, "steps": bad}
    film = {"instruction": bad, "ahead": 8, "seconds": 1.0}
    film["clips"] = [{**clip, "shown": 3, "imagined": True}] * 2
    ways = (Way("one", spec, log, {"seconds": 3.0}, result), Way("two", None, problem=bad))
    settings = Settings(bad, bad, bad, 4, 0)  # type: ignore[arg-type]
    object.__setattr__(settings, "episodes", 4)
    data = {"episodes": bad, "frames": bad, "seconds": 3.0}
    (tmp_path / "one").mkdir()
    demo = Demo(settings, data, {bad: result}, ways, film)
    file = page.write(tmp_path / "r.html", demo, {"one": explanation})
    expect_only_text(file.read_text(encoding="utf-8"), bad, tags=TAGS)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_name_in_a_figure_is_text(bad: str, tmp_path: Path) -> None:
    with plots.style():
        bars = plots.bars({bad: {bad: 1.0, "x": 2.0}})
        lines = plots.lines({bad: [(0.0, 1.0), (1.0, 2.0)]}, x=bad, y=bad)
        inline = figures.draw_results({bad: RESULT})
        files = [plots.write(tmp_path / "a.svg", figure) for figure in (bars, lines)]
    for made in (inline, *(file.read_text(encoding="utf-8") for file in files)):
        expect_only_text(made, bad, tags=DRAWN | RDF)


def test_cells_of_markdown_make_no_table_link_or_element() -> None:
    bad = "a | b\n| c | [x](javascript:alert(1)) <script>"
    found = escape_markdown(bad)
    assert "\n" not in found and "<" not in found
    assert not re.search(r"(?<!\\)[|\[\]]", found)
    cell = Cell("b", "h", "p", None, (Conflict(between=("a", "b"), why=bad, hint=bad),))
    assert "<script>" not in (page := markdown([cell])) and page.count("\n| c") == 0


def test_a_card_is_a_table_for_any_paths() -> None:
    policy = build(Path(__file__).parent / "data" / "small.toml")
    part = policy.spec.backbone.model_copy(update={"weights": "a | b\n# <script> [x](y)"})
    policy.spec = policy.spec.model_copy(update={"backbone": part})
    rows = [line for line in model_card(policy).splitlines() if line.startswith("| backbone")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 7
    assert "<script>" not in model_card(policy)

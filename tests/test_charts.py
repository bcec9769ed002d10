"""Charts keep room for every label, whatever the names."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from PIL import ImageFont

from wamkit.cli.demo.drawing import streams, success
from wamkit.files.charts import bars, lines, text_width

NAMES = [
    "image_wam_4b",
    "wwwwwwwwwwmmmmmmmmmm",
    "WAM of many capital LETTERS",
    "ロボットの方策",
    "i",
]
LONG = "a_role_with_a_long_name"


def expect_inside(svg: str) -> None:
    """Fail if a text leaves the image or, in one row, runs into another."""
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    rows: dict[float, list[tuple[float, float, str]]] = {}
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        size, x, y = (float(text.attrib[key]) for key in ("font-size", "x", "y"))
        long, content = text_width(text.text or "", size), text.text or ""
        if turned := re.search(r"rotate\((-?\d+)", text.attrib.get("transform", "")):
            angle = math.radians(float(turned[1]))
            assert 0 <= x + long * math.cos(angle) <= width and y + long * math.sin(angle) >= 0
            continue
        start = x - long * {"end": 1.0, "middle": 0.5}.get(text.attrib["text-anchor"], 0.0)
        assert start >= 0 and start + long <= width + 0.5, (content, start, long, width)
        assert size * 0.7 <= y <= height, content
        rows.setdefault(round(y, 1), []).append((start, start + long, content))
    for row in rows.values():
        for one, two in pairwise(sorted(row)):
            assert one[1] <= two[0] + 1, (one, two)


@pytest.mark.parametrize("measures", [1, 2, 4])
def test_names_of_bars_and_measures_are_whole(measures: int) -> None:
    titles = ["parameters, billions", "TFLOP a chunk", "GB moved a chunk", "ms a chunk at toy size"]
    series = {m: {n: 1234.5 * i for i, n in enumerate(NAMES)} for m in titles[:measures]}
    expect_inside(bars(series))
    expect_inside(bars({m: {"a" * 90: 1.0} for m in titles[:measures]}))


def test_names_and_values_of_lines_are_complete() -> None:
    points = [(0.0, -123456.0), (123456.0, 1e-7)]
    expect_inside(lines(dict.fromkeys(NAMES, points), x="steps", y="loss, log10"))
    expect_inside(lines({"a" * 90: points, "b": points}, x="steps", y="a measure of something"))


def test_images_of_the_report_have_room_for_names() -> None:
    found = {"success_rate": 0.5, "interval_95": [0.2, 0.8], "successes": 1, "episodes": 2}
    expect_inside(success(dict.fromkeys([*NAMES, LONG], found)))
    for names in (
        ["context", "target", "action"],
        ["context", LONG, "action"],
        [*"abcdefghi", LONG],
    ):
        kinds = ("text_encoder", "vae", "backbone", "action_head")
        explanation = {
            "tokens": {"text": 12},
            "roles": dict.fromkeys(names, 1234),
            "parts": [{"kind": kind, "name": "a_part_with_a_long_name"} for kind in kinds],
            "sees": dict.fromkeys(names, names),
            "text": "cross",
        }
        expect_inside(streams(explanation))


def test_the_width_of_a_text_is_an_upper_bound() -> None:
    font = ImageFont.load_default(100)
    for text in (*NAMES[:3], "The quick brown fox jumps over 13 lazy dogs, 0.0123 + 4e-05"):
        assert font.getlength(text) <= text_width(text, 100)

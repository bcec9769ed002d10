"""The images of the page, as SVG whose colors are those of the page: light, or dark.

Classes are what the style sheet of the page colors: `words`, `frames`, `numbers` for roles, `ink`
for text, `faint` for lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...files import charts as chart
from ...files.printable import escaped

WIDTH = 360  # user units: about the pixels of a phone, so that text keeps its size there
POINTS = 80  # of a curve
NUMBERS = ("state", "action", "did", "next_state", "value")


def kind(role: str) -> str:
    """Whether a role is made of words, frames or numbers."""
    plain = role.rstrip("'").partition(".")[0]
    if plain == "text":
        return "words"
    return "numbers" if plain in NUMBERS else "frames"


def streams(explanation: Mapping[str, Any]) -> str:
    """The tokens in three streams, and below the attention mask by role."""
    roles: dict[str, int] = {"text": explanation["tokens"].get("text", 0), **explanation["roles"]}
    parts = {part["kind"]: part["name"] for part in explanation["parts"]}
    body = [_text(0, 14, "Streams of tokens", weight=600)]
    made_by = {
        "words": f"words, read by {parts['text_encoder']}",
        "frames": f"images, {parts['vae']} and {parts['backbone']}",
        "numbers": f"numbers, {parts['action_head']}",
    }
    y, widest = 26.0, float(WIDTH)
    for name, label in made_by.items():
        members = {role: count for role, count in roles.items() if kind(role) == name and count}
        if members:
            drawn, width = _stream(y, name, label, members)
            body.append(drawn)
            widest = max(widest, width)
            y += 62
    lead = "Who sees whom: rows see filled columns"
    body.append(_text(0, y + 16, lead, weight=600))
    drawn, y, width = _grid(y + 28, explanation)
    widest = max(widest, width)
    body.append(drawn)
    if explanation["text"] != "stream":
        where = "the blocks" if explanation["text"] == "cross" else "the action head"
        body.append(_text(0, y + 16, f"Words are read in {where} by cross-attention."))
        y += 24
    words = "; ".join(
        f"{row} sees {', '.join(seen) or 'nothing'}" for row, seen in explanation["sees"].items()
    )
    return _svg(widest, y + 4, "Streams of tokens and who sees whom", words, body)


def _stream(y: float, name: str, label: str, members: Mapping[str, int]) -> tuple[str, float]:
    """One stream: a block for each role, with its number of tokens; and how wide it is."""
    labels = [f"{role} {count}" for role, count in members.items()]
    step = max(WIDTH / max(3, len(members)), 14 + max(chart.text_width(t, 8) for t in labels))
    body = [_text(0, y + 12, label, size=12)]
    for i in range(len(members)):
        x, width = i * step, step - 6
        body.append(
            f'<rect class="{name}" x="{x:.1f}" y="{y + 18}" width="{width:.1f}" height="32" '
            'rx="5"/>'
        )
        size = 12 if chart.text_width(labels[i], 12) < step - 8 else 8
        body.append(_text(x + width / 2, y + 38, labels[i], size=size, anchor="middle", css="on"))
    return "".join(body), max(step * len(members), chart.text_width(label, 12))


def _grid(y: float, explanation: Mapping[str, Any]) -> tuple[str, float, float]:
    """The table of visibility, where it ends below, and at the right."""
    roles = list(explanation["roles"])
    size, row = (12, 28.0) if len(roles) <= 8 else (8, 16.0)
    longest = max(chart.text_width(role, size) for role in roles)
    left = max(92.0, longest + 12)
    cell = max(12.0, min(44.0, (WIDTH - left) / len(roles)))
    upright = len(roles) <= 5 and max(chart.text_width(r, 11) for r in roles) < cell + 6
    top = y + (20 if upright else max(64, longest * math.sin(math.pi / 3) + 16))
    body = []
    for i, role in enumerate(roles):
        x = left + cell * (i + 0.5)
        if upright:
            body.append(_text(x, top - 8, role, size=11, anchor="middle"))
        else:
            turned = f' transform="rotate(-60 {x:.1f} {top - 6:.1f})"'
            body.append(_text(x, top - 6, role, size=size, more=turned))
    for j, asks in enumerate(roles):
        middle = top + row * (j + 0.5)
        body.append(_text(left - 8, middle + 4, asks, size=size, anchor="end"))
        for i, role in enumerate(roles):
            filled = role in explanation["sees"][asks]
            body.append(
                f'<rect class="{kind(role) if filled else "empty"}" x="{left + cell * i + 2:.1f}" '
                f'y="{top + row * j + 2:.1f}" width="{cell - 4:.1f}" height="{row - 4:.1f}" '
                'rx="3"/>'
            )
    width = left + cell * len(roles) + (0 if upright else longest / 2)
    return "".join(body), top + row * len(roles) + 4, width


def success(rates: Mapping[str, Mapping[str, Any]]) -> str:
    """A bar for each name with the whisker of its interval; `rates` are results of evaluations."""
    row, right = 34.0, 46.0
    left = max(104.0, 12 + max((chart.text_width(name, 12) for name in rates), default=0))
    scale = max(120.0, WIDTH - left - right)
    whole = left + scale + right
    body = []
    for share in (0.0, 0.5, 1.0):
        x = left + share * scale
        bottom = 18 + row * len(rates)
        body.append(f'<path class="faint" d="M{x:.1f},18 V{bottom:.1f}"/>')
        body.append(_text(x, 12, f"{share:.0%}", size=11, anchor="middle"))
    for i, (name, found) in enumerate(rates.items()):
        y = 22 + row * i
        rate, (low, high) = found["success_rate"], found["interval_95"]
        x0, x1 = left + low * scale, left + high * scale
        css = "numbers" if name not in ("random", "expert") else "words"
        middle = y + 13
        body.append(_text(left - 8, y + 18, name, size=12, anchor="end"))
        body.append(
            f'<rect class="{css}" x="{left}" y="{y}" width="{max(1.0, rate * scale):.1f}" '
            'height="26" rx="3"/>'
        )
        body.append(
            f'<path class="whisker" d="M{x0:.1f},{middle} H{x1:.1f} M{x0:.1f},{y + 7} v12 '
            f'M{x1:.1f},{y + 7} v12"/>'
        )
        body.append(_text(whole - right + 8, y + 18, f"{rate:.0%}", size=12))
    words = "; ".join(
        f"{name} {found['successes']} of {found['episodes']}" for name, found in rates.items()
    )
    title = "Success with 95 % intervals"
    return _svg(whole, 26 + row * len(rates), title, words, body)


def losses(log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """part -> the curve of its loss in training, and on episodes that are held out."""
    trained = [(line["step"], line["parts"]) for line in log if "parts" in line]
    held = [(line["step"], line["validation"]) for line in log if "validation" in line]
    made = {}
    for part in trained[0][1] if trained else ():
        curves = {
            "training": _logarithms(_thinned([(step, losses[part]) for step, losses in trained])),
            "held out": _logarithms(
                [(step, losses[part]) for step, losses in held if part in losses]
            ),
        }
        present = {name: points for name, points in curves.items() if points}
        if present:
            made[part] = chart.lines(present, x="updates", y="loss, log10", width=WIDTH, height=240)
    return made


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbors, no more than POINTS of them."""
    size = max(1, math.ceil(len(points) / POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _logarithms(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, math.log10(y)) for x, y in points if y > 0]


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    weight: int = 400,
    anchor: str = "start",
    css: str = "ink",
    more: str = "",
) -> str:
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}"{more}>{escaped(words)}</text>'
    )


def _svg(width: float, height: float, title: str, words: str, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">\n'
        f"<title>{escaped(title)}</title><desc>{escaped(words)}</desc>\n"
        + "\n".join(body)
        + "\n</svg>\n"
    )

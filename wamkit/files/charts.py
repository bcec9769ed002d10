"""Plain images of numbers as SVG, without a plotting library: bars side by side, and lines."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from .durable import as_not_written, make_folder, write_text
from .printable import escaped

COLORS = ("#3b6ea8", "#d9822b", "#4f9d69", "#b5495b", "#7a5ea8", "#8c8c8c", "#c2a83e", "#3aa6a6")
FONT = 'font-family="system-ui, sans-serif"'


WIDE, NARROW = set("mwMW@%&"), set("iljtfrI.,:;'|!()[] ")


def text_width(words: str, size: float = 13) -> float:
    """An upper bound of the width of a text in any usual sans-serif font, in units of the image.

    Images are drawn without knowing the font, so that room is made for the widest.
    """
    ems = 0.0
    for letter in words:
        if unicodedata.east_asian_width(letter) in "WF":
            ems += 1.05
        elif letter in WIDE:
            ems += 1.02
        else:
            small = letter.islower() or letter.isdigit() or letter in "_-"
            ems += 0.42 if letter in NARROW else 0.66 if small else 0.85
    return ems * size


def bars(series: Mapping[str, Mapping[str, float]], *, width: int = 900) -> str:
    """Horizontal bars: a panel for each measure, a bar for each name, each panel to its own scale.

    `series` is measure -> name -> value, every value at least 0.
    """
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    left = 16 + max(map(text_width, names), default=0)
    columns = max(1, len(series))
    titles = 16 + max((text_width(measure) * 1.1 for measure in series), default=0)
    panel, row, top = max((width - left) / columns, titles, 150), 22, 44
    width = math.ceil(left + columns * panel)
    height = top + row * len(names) + 12
    body = []
    for i, name in enumerate(names):
        y = top + row * i + 15
        body.append(_text(left - 8, y, name, anchor="end"))
    for k, (measure, values) in enumerate(series.items()):
        x0, most = left + k * panel, max(values.values(), default=0) or 1
        body.append(_text(x0, 24, measure, weight="600"))
        for i, name in enumerate(names):
            if (value := values.get(name)) is None:
                continue
            y, length = top + row * i, max(1.0, value / most * (panel - 74))
            body.append(
                f'<rect x="{x0:.1f}" y="{y + 3}" width="{length:.1f}" height="{row - 8}" '
                f'fill="{COLORS[k % len(COLORS)]}" rx="2"/>'
            )
            body.append(_text(x0 + length + 5, y + 15, _short(value), size=12))
    return _svg(width, height, body)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    width: int = 640,
    height: int = 360,
) -> str:
    """Lines through points (x, y), one for each name, both axes from their least to their most.

    Points that are not finite are left out.
    """
    clean = {
        name: [(a, b) for a, b in points if abs(a) < 1e300 and abs(b) < 1e300]
        for name, points in series.items()
    }
    every = [point for points in clean.values() for point in points] or [(0.0, 0.0)]
    (x0, x1), (y0, y1) = (_range([p[axis] for p in every]) for axis in (0, 1))
    ticks = [[low + i * (high - low) / 4 for i in range(5)] for low, high in ((x0, x1), (y0, y1))]
    left = 16 + max(text_width(_short(down)) for down in ticks[1])
    right = 16 + text_width(_short(ticks[0][-1])) / 2  # the last number stands below the end
    top, bottom = 16 + 18 * len(clean), 44
    named = max(map(text_width, clean), default=0)
    need = max(text_width(x), 1.1 * text_width(y) + 24 + named)
    width = math.ceil(max(width, left + right + need))

    def place(point: tuple[float, float]) -> str:
        across = left + (point[0] - x0) / (x1 - x0) * (width - left - right)
        down = height - bottom - (point[1] - y0) / (y1 - y0) * (height - top - bottom)
        return f"{across:.1f},{down:.1f}"

    body = [
        f'<path d="M{left},{top} V{height - bottom} H{width - right}" fill="none" stroke="#999"/>'
    ]
    for across, down in zip(*ticks, strict=True):
        at_x, at_y = place((across, down)).split(",")
        body.append(_text(float(at_x), height - bottom + 16, _short(across), anchor="middle"))
        body.append(_text(left - 6, float(at_y) + 4, _short(down), anchor="end"))
    body.append(_text((left + width - right) / 2, height - 8, x, anchor="middle"))
    body.append(_text(left, top - 8 - 18 * (len(clean) - 1) - 4, y, weight="600"))
    for i, (name, points) in enumerate(clean.items()):
        color = COLORS[i % len(COLORS)]
        body.append(
            f'<polyline points="{" ".join(map(place, points))}" fill="none" stroke="{color}" '
            'stroke-width="2"/>'
        )
        body.append(_text(width - right, 16 + 18 * i, name, anchor="end", fill=color))
    return _svg(width, height, body)


def write(file: str | Path, svg: str) -> Path:
    """Write an image, whole or not at all. Raises NotWrittenError if the file system refuses."""
    goal = Path(file)
    with as_not_written(goal):
        make_folder(goal.parent)
    write_text(goal, svg)
    return goal


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _short(value: float) -> str:
    if 1000 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "400",
    fill: str = "#222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{fill}" {FONT}>{escaped(words)}</text>'
    )


def _svg(width: int, height: int, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )

"""Figures with matplotlib: one style, one palette, written atomically.

    with plots.style():
        figure, (axes,) = plots.panels(1, 4, 2.5)
        axes.plot(steps, losses)
        plots.write("loss.svg", figure)

Axes have a fixed size in inches and what stands around them gets the room it needs, so that no
label is cut, however long. The same data give the same bytes. Names are text: no markup, no
formula.
matplotlib comes with the extra `plots` and is imported when the first figure is drawn.
"""

from __future__ import annotations

import math
import re
import textwrap
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WamkitError, printable
from .durable import as_not_written, make_folder, write_bytes
from .install import EXTRAS, install_hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE, EMPTY = "#1d2125", "#5a6169", "#d5d2ca", "#eeece6"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#56b4e9", "#5f6b76", "#e69f00")
"""After Okabe and Ito (2008): distinguished by any color vision, and in shades of gray."""
DASHES = ("-", "--", "-.", ":")
MODALITY_COLORS = {"text": COLORS[6], "frames": COLORS[0], "values": COLORS[1]}
ROLE_COLORS = {
    "text": COLORS[6],
    "context": COLORS[0],
    "target": COLORS[3],
    "state": COLORS[2],
    "action": COLORS[1],
    "next_state": COLORS[5],
    "value": COLORS[4],
}
"""Of attention tables, wherever they are drawn: in reports, notebooks, and `wamkit explore`."""

FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}
"""Ending -> metadata: no date and no version, so that a figure changes with its data alone."""
STYLE = Path(__file__).with_suffix(".mplstyle")
THEME = {INK: "ink", SOFT: "soft", RULE: "rule", EMPTY: "empty", "#ffffff": "card"} | {
    color: f"color-{i}" for i, color in enumerate(COLORS)
}


def expect_plots(*files: Path) -> None:
    """Raise WamkitError unless the extra `plots` is there and `files` are named .svg or .png."""
    for file in files:
        if file.suffix not in FORMATS:
            names = " nor ".join(FORMATS)
            raise WamkitError(f"{file} is neither {names}", f"choose a name that ends in {names}")
    if absent := missing_modules():
        what = f"figures and reports need {' and '.join(absent)}, not installed here"
        raise WamkitError(what, install_hint("plots"))


def missing_modules() -> list[str]:
    """The modules of the extra `plots` that are not installed."""
    return [name for name in EXTRAS["plots"] if find_spec(name) is None]


@contextmanager
def style() -> Iterator[None]:
    """The style of every figure; figures are made, drawn and written inside this block."""
    expect_plots()
    import matplotlib

    with matplotlib.rc_context(fname=STYLE):
        yield


def panels(count: int, width: float, height: float, gap: float = 0.3) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes side by side, each `width` x `height` inches, `gap` between."""
    from matplotlib.figure import Figure

    whole = count * (width + gap)
    figure = Figure(figsize=(whole, height))
    places = [(i * (width + gap) / whole, 0, width / whole, 1) for i in range(count)]
    return figure, [figure.add_axes(place) for place in places]


def write(file: str | Path, figure: Figure, safe: str | None = None) -> Path:
    """Write a figure atomically as .svg or .png; `safe` as in `durable`.

    Raises WamkitError for another format, NotWrittenError if the file system refuses.
    """
    goal = Path(file)
    expect_plots(goal)
    data = _drawn(figure, goal.suffix)
    with as_not_written(goal, safe):
        make_folder(goal.parent)
    write_bytes(goal, data, safe)
    return goal


def inline(figure: Figure, title: str) -> str:
    """A figure as an `<svg>` element of a page, whose style sheet may set its colors.

    Colors of the palette become variables (`--ink`, `--card`, `--color-0` ...), for a page with a
    dark scheme. `title` is what a screen reader says.
    """
    from html import escape

    text = _drawn(figure, ".svg").decode()
    text = text[text.index("<svg ") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' id="\w*?[a-z.]+\d?_\d+"', "", text)  # not unique in a page of figures
    for color, name in THEME.items():
        text = text.replace(f": {color}", f": var(--{name}, {color})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(printable(title))}" ', 1)


def bars(series: Mapping[str, Mapping[str, float]]) -> Figure:
    """Horizontal bars: a panel for each measure, a bar for each name, each panel to its own scale.

    `series` is measure -> name -> value, every value at least 0; a measure states its unit.
    """
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    figure, every = panels(max(1, len(series)), 2.0, 0.28 * max(1, len(names)), 0.2)
    for axes, (measure, values) in zip(every[: len(series)], series.items(), strict=True):
        rows = [names.index(name) for name in values]
        drawn = axes.barh(rows, list(values.values()), 0.66, color=COLORS[0])
        axes.bar_label(drawn, [short(value) for value in values.values()], padding=3)
        axes.set_title(textwrap.fill(printable(measure), 24))
        axes.set_xlim(0, 1.35 * (max(values.values(), default=0) or 1))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
    every[0].set_yticks(range(len(names)), list(map(printable, names)))
    return figure


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log: bool = False,
    width: float = 5.0,
    height: float = 2.8,
) -> Figure:
    """Lines through points (x, y), one for each name; both axes state their units.

    Points that are not finite, and with `log`, a logarithmic y axis, those not above 0, are left
    out. Few points are marked.
    """
    figure, (axes,) = panels(1, width, height)
    for i, (name, points) in enumerate(series.items()):
        clean = [(a, b) for a, b in points if max(abs(a), abs(b)) < 1e300 and (b > 0 or not log)]
        axes.plot(
            [a for a, _ in clean],
            [b for _, b in clean],
            DASHES[(i + i // len(COLORS)) % len(DASHES)],  # no two of the first 32 are alike
            color=COLORS[i % len(COLORS)],
            marker="o" if len(clean) <= 12 else None,
            markersize=4,
            label=printable(name),
        )
    axes.set_xlabel(printable(x))
    axes.set_ylabel(printable(y))
    axes.grid(axis="y")
    if log:
        scale_logarithmically(axes)
    if len(series) > 1:
        columns = 1 if max(map(len, series)) > 20 else 3
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns)
    return figure


def attention_table(
    axes: Axes,
    roles: Sequence[str],
    sees: Mapping[str, Collection[str]],
    *,
    cell: float,
    bold: Collection[str] = (),
) -> None:
    """Draw which role (row) attends to which (column, filled); a cell is `cell` inches wide.

    A cell has the color of its column's role; the names of the rows in `bold` are bold.
    """
    from matplotlib.patches import Rectangle

    for j, row in enumerate(roles):
        for i, column in enumerate(roles):
            face = role_color(column) if column in sees[row] else EMPTY
            axes.add_patch(Rectangle((i + 0.06, j + 0.06), 0.88, 0.88, color=face, linewidth=0))
    labels, places = list(map(printable, roles)), [i + 0.5 for i in range(len(roles))]
    axes.set(xlim=(0, len(roles)), ylim=(len(roles), 0), aspect="equal")
    axes.xaxis.tick_top()
    axes.set_xticks(places, labels, rotation=50, ha="left", rotation_mode="anchor")
    axes.set_yticks(places, labels)
    for role, label in zip(roles, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if role in bold else "normal")
    axes.tick_params(length=0, labelsize=9.5 if cell >= 0.24 else 7)
    axes.spines[:].set_visible(False)


def role_color(role: str) -> str:
    """The color of a role; copies (`target'`) and blocks (`target.3`) have that of the original."""
    plain = role.rstrip("'").partition(".")[0]
    return ROLE_COLORS.get({"seen": "target", "did": "action"}.get(plain, plain), COLORS[4])


def short(value: float) -> str:
    """A value with three digits: 0.0123, 1.5, 12345, 1.2e+07."""
    if 1000 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def scale_logarithmically(axes: Axes) -> None:
    """A logarithmic y axis that shows values (1, 0.1, 0.01), and several where they lie close."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(range(1, 10))
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    plain = FuncFormatter(lambda value, _: f"{value:.12f}".rstrip("0").rstrip("."))
    axes.yaxis.set_major_formatter(plain)


def _drawn(figure: Figure, ending: str) -> bytes:
    made = BytesIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # an SVG holds letters, and not their shapes
        figure.savefig(made, format=ending[1:], metadata=FORMATS[ending])
    return made.getvalue()

"""The figures of the report, as SVG for a page that is light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import printable
from ...files import plots

if TYPE_CHECKING:
    from ...config.spec import PolicySpec
    from .stages import Found

POINTS = 80  # of a curve
FRAMES, VALUES = plots.MODALITY_COLORS["frames"], plots.MODALITY_COLORS["values"]


def draw_results(rates: Mapping[str, Found]) -> str:
    """Success of each name with its 95 % interval, and milliseconds of a decision."""
    times = {
        name: found["latency_ms"]["policy"]["p50"]
        for name, found in rates.items()
        if "latency_ms" in found
    }
    height = 0.3 * len(rates)
    figure, (left, right) = plots.panels(2, 1.35, height, 0.25)
    for row, (name, found) in enumerate(rates.items()):
        rate, (low, high) = 100 * found["success_rate"], found["interval_95"]
        color = VALUES if name in times else plots.MODALITY_COLORS["text"]
        left.barh(row, rate, 0.66, color=color)
        left.plot([100 * low, 100 * high], [row, row], color=plots.INK, linewidth=1.2)
        left.plot([100 * low, 100 * high], [row, row], "|", color=plots.INK, markersize=7)
        if name in times:
            drawn = right.barh(row, times[name], 0.66, color=FRAMES)
            right.bar_label(drawn, [plots.short(times[name])], padding=3)
    left.set_title("success, %")
    left.set(xlim=(0, 104), xticks=(0, 50, 100), ylim=(len(rates) - 0.5, -0.5))
    left.set_yticks(range(len(rates)), [printable(name) for name in rates])
    left.tick_params(axis="y", length=0)
    left.grid(axis="x")
    left.set_axisbelow(True)
    right.set_title("ms a decision")
    right.set(xlim=(0, 1.5 * max(times.values(), default=1)), ylim=left.get_ylim(), yticks=())
    right.set_xticks([])
    right.spines["bottom"].set_visible(False)
    label = "; ".join(f"{name}: {found['success_rate']:.0%}" for name, found in rates.items())
    return plots.inline(figure, f"Success and time of a decision. {label}")


def draw_attention(facts: Mapping[str, Any]) -> str:
    """Which role attends to which, with the tokens of each."""
    roles, sees = facts["roles"], facts["sees"]
    cell = 0.45 if len(roles) <= 6 else 0.33 if len(roles) <= 9 else 0.2
    figure, (axes,) = plots.panels(1, cell * len(roles), cell * len(roles))
    plots.attention_table(axes, list(roles), sees, cell=cell)
    labels = [f"{printable(role)} ({count})" for role, count in roles.items()]
    axes.set_yticks(axes.get_yticks(), labels)
    label = "; ".join(f"{row} sees {', '.join(seen) or 'nothing'}" for row, seen in sees.items())
    return plots.inline(figure, f"Which role attends to which: {label}")


def draw_timeline(spec: PolicySpec, execute_steps: int) -> str:
    """Where observed and imagined frames, actions and the next decision lie in time."""
    from matplotlib.patches import Rectangle

    chunk, step = spec.actions.chunk_size, 1000 / spec.actions.control_hz  # ms of an action
    stride, video = spec.video.frame_stride * step, spec.video
    observed = [-stride * back for back in range(video.num_observed)]
    imagined = [stride * (1 + i) for i in range(video.num_frames - video.num_observed)]
    figure, (axes,) = plots.panels(1, 3.1, 1.4)
    end = max([chunk * step, *imagined])
    wide, high = 0.045 * (end - min(observed)), 0.56

    def box(x: float, y: float, width: float, color: str, filled: bool) -> None:
        face = color if filled else "none"
        axes.add_patch(Rectangle((x, y - high / 2), width, high, ec=color, fc=face, lw=1.3))

    for time in observed:
        box(time - wide / 2, 2, wide, FRAMES, True)
    for time in imagined:
        box(time - wide / 2, 2, wide, FRAMES, False)
    for i in range(chunk):
        box((i + 0.08) * step, 1, 0.84 * step, VALUES, i < execute_steps)
    axes.plot([execute_steps * step], [0], "^", color=plots.INK, markersize=8, clip_on=False)
    axes.axvline(0, color=plots.RULE, zorder=0)
    axes.axvline(execute_steps * step, color=plots.RULE, zorder=0)
    axes.set(xlim=(min(observed) - wide, end + wide), ylim=(-0.5, 2.6))
    axes.set_yticks([2, 1, 0], ["frames", "actions", "next decision"])
    axes.set_xticks(sorted({*observed, execute_steps * step, *imagined, chunk * step}))
    axes.set_xlabel("time from the newest observation, ms")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return plots.inline(figure, "Frames and actions of one decision over time")


def draw_losses(log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """part -> its loss in training, smoothed, and on episodes that are held out."""
    trained = [(line["step"], line["parts"]) for line in log if "parts" in line]
    held = [(line["step"], line["validation"]) for line in log if "validation" in line]
    made = {}
    for part in trained[0][1] if trained else ():
        curves = {
            "training": _smooth([(step, losses[part]) for step, losses in trained]),
            "held out": [(step, losses[part]) for step, losses in held if part in losses],
        }
        present = {name: points for name, points in curves.items() if points}
        figure = plots.lines(present, x="update", y="loss", log=True, width=3.0, height=1.9)
        made[part] = plots.inline(figure, f"Loss of {part.replace('_', ' ')} over updates")
    return made


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbors, no more than POINTS of them."""
    size = max(1, math.ceil(len(points) / POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]

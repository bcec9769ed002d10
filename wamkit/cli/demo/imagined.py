"""The quality of imagined frames on held-out demonstrations: measured, and drawn for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...config import runs
from ...config.spec import PolicySpec
from ...errors import WamkitError, printable
from ...files import plots
from .._imagined import LABELS
from .stages import Found, Settings

COPY = "copy"
DASHES = ("-", "-.", ":")  # of the copy: --
LEGEND_ROWS = 9
FRAMES, BASELINE = plots.MODALITY_COLORS["frames"], plots.MODALITY_COLORS["text"]


def measure_imagined(place: Path, data: Path, settings: Settings, spec: PolicySpec) -> Found:
    """Quality by horizon of the newest policy of a run, on the demonstrations that it held out.

    What is missing is named under "problem": the extra `quality`, or frames that are imagined.
    """
    from ...data import LeRobotFolder, Samples
    from ...evaluate.recorded import evaluate_recorded, expect_measurable
    from ...policy.policy import Policy
    from .._imagined import held_out_episodes

    _, newest = runs.finished(place / "training" / runs.CHECKPOINTS)[-1]
    recording = LeRobotFolder(data)
    try:
        hold = held_out_episodes(newest / runs.POLICY, recording)
        samples = Samples(recording, spec, episodes=hold)
        policy = Policy.load(newest / runs.POLICY)
        expect_measurable(policy, samples)
    except WamkitError as problem:
        return {"problem": f"{problem.what} ({problem.hint})"}
    return evaluate_recorded(policy, samples, seed=settings.seed)


def draw_quality(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Each metric by horizon, of every paradigm and of the copied frame; bars for one horizon.

    `found`: paradigm -> rows of `HorizonQuality.summary`.
    """
    rows = dict(found)
    several = any(len(by_horizon) > 1 for by_horizon in rows.values())
    height = 1.6 if several else 0.3 * (len(rows) + 1)
    figure, panels = plots.panels(len(LABELS), 1.35, height, 0.5 if several else 0.2)
    for number, ((metric, label), axes) in enumerate(zip(LABELS.items(), panels, strict=True)):
        axes.set_title(label)
        if several:
            _draw_lines(axes, rows, metric)
            if number == len(LABELS) - 1:  # next to all panels, however many names
                columns = -(-(len(rows) + 1) // LEGEND_ROWS)
                axes.legend(
                    loc="upper left", bbox_to_anchor=(1.0, 1.05), ncols=columns, handlelength=3
                )
        else:
            _draw_bars(axes, rows, metric, named=number == 0)
    texts = (f"{name}: {_describe(by_horizon[-1])}" for name, by_horizon in rows.items())
    return plots.inline(
        figure, f"Quality of imagined frames, at the longest horizon. {'; '.join(texts)}"
    )


def _draw_bars(
    axes: Any, rows: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, *, named: bool
) -> None:
    """A bar for each paradigm and one for the copy, with intervals."""
    bars = {name: by_horizon[-1][metric]["policy"] for name, by_horizon in rows.items()}
    bars[COPY] = longest(rows)[-1][metric][COPY]
    for row, (name, one) in enumerate(bars.items()):
        axes.barh(row, one["mean"], 0.66, color=BASELINE if name == COPY else FRAMES)
        if one["interval_95"] is not None:
            axes.plot(one["interval_95"], [row, row], color=plots.INK, linewidth=1.2)
            axes.plot(one["interval_95"], [row, row], "|", color=plots.INK, markersize=7)
        end = _end(one)
        axes.annotate(f"  {one['mean']:.3g}", (end, row), va="center")
    most = max(map(_end, bars.values()))
    axes.set(xlim=(0, 1.35 * most), ylim=(len(bars) - 0.5, -0.5), xticks=())
    axes.set_yticks(
        range(len(bars)) if named else [], [printable(n) for n in bars] if named else []
    )
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)


def _end(one: Mapping[str, Any]) -> float:
    """Where the bar of a mean and its interval end."""
    return max([one["mean"], *(one["interval_95"] or [])])


def longest(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Sequence[Mapping[str, Any]]:
    """The rows of the paradigm that imagines most frames: the copy is known at all of them."""
    return max(rows.values(), key=len)


def _draw_lines(axes: Any, rows: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> None:
    """A line for each paradigm and one for the copy, over seconds."""
    for number, (name, by_horizon) in enumerate(rows.items()):
        round_, place = divmod(number, len(plots.COLORS))
        axes.plot(
            [row["seconds"] for row in by_horizon],
            [_mean(row, metric) for row in by_horizon],
            DASHES[round_ % len(DASHES)],
            marker="o",
            markersize=4,
            color=plots.COLORS[place],
            label=printable(name),
        )
    known = longest(rows)
    copied = [row[metric][COPY]["mean"] for row in known]
    axes.plot(
        [row["seconds"] for row in known], copied, "o--", color=BASELINE, markersize=4, label=COPY
    )
    axes.set_xlabel("s ahead")


def _describe(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{label} {_mean(row, metric):.3g}" for metric, label in LABELS.items())


def _mean(row: Mapping[str, Any], metric: str) -> float:
    return float(row[metric]["policy"]["mean"])

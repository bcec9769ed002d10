"""Imagined frames measured: on recorded episodes (`wamkit eval POLICY --data DIR`), and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WamkitError
from ._env_options import progress
from ._output import emit, note, say, show_table, table
from ._sources import resolve_source

if TYPE_CHECKING:
    from ..data import LeRobotFolder
    from ..evaluate.rollouts import RolloutQuality
    from ..simulate.policy_runner import PolicyRunner
    from ._eval_policy import PolicyOptions

LABELS = {"psnr": "PSNR, dB", "ssim": "SSIM", "haarpsi": "HaarPSI"}


@dataclass(frozen=True)
class RecordedOptions:
    """Recorded episodes that a policy is evaluated on, as it was typed."""

    data: Path
    episodes: int
    seed: int
    columns: list[str]


def evaluate_data(options: RecordedOptions, acting: PolicyOptions, *, json: bool) -> None:
    """Evaluate a policy on up to `options.episodes` recorded episodes, and report."""
    from ..config.runs import is_folder
    from ..data import Columns, LeRobotFolder, Samples
    from ..evaluate.frames import expect_imagining
    from ..evaluate.image_quality import expect_metrics
    from ..evaluate.recorded import evaluate_recorded, pick_clips
    from ..policy.build import resolve
    from ._inputs import load_policy

    policy, overrides = acting.policy, acting.overrides
    if not is_folder(policy):
        raise WamkitError(f"no saved policy at {policy}", "name the folder of one, or of a run")
    expect_metrics()
    folder = resolve_source(Path(policy))
    spec = resolve(folder, overrides)
    expect_imagining(spec)
    recording = LeRobotFolder(options.data)
    held_out = held_out_episodes(folder, recording)
    indexes = held_out or [episode.index for episode in recording.episodes]
    indexes = spread_over(indexes, options.episodes)
    samples = Samples(recording, spec, Columns.of(options.columns), episodes=indexes)
    made, notes = load_policy(folder, spec, acting.device, overrides)
    for line in notes:
        note(line)
    if held_out is None:
        note("these episodes are not known to be held out: the policy may have learned from them")
    with progress("clips", len(pick_clips(samples))) as (advance, _):

        def on_clips(count: int) -> None:
            for _ in range(count):
                advance()

        measured = evaluate_recorded(made, samples, seed=options.seed, on_clips=on_clips)
    about = {"policy": policy, "data": str(options.data), "held_out": held_out is not None}
    if json:
        emit({**about, **measured})
    else:
        draw_recorded({**about, **measured})


def open_quality(runner: PolicyRunner | None) -> RolloutQuality | None:
    """What measures the frames that a policy imagines in closed loop, if it imagines any.

    None, with a note, if a package is missing: the episodes are the same without.
    """
    if runner is None or not runner.imagine:
        return None
    from ..evaluate.image_quality import expect_metrics
    from ..evaluate.rollouts import RolloutQuality

    try:
        expect_metrics()
    except WamkitError as error:
        note(f"imagined frames are not measured: {error.what}; {error.hint}")
        return None
    return RolloutQuality(runner.policy, runner.views)


def spread_over(indexes: Sequence[int], count: int) -> list[int]:
    """At most `count` of the indexes, evenly spaced."""
    if len(indexes) <= count:
        return list(indexes)
    return [indexes[i * len(indexes) // count] for i in range(count)]


def held_out_episodes(policy: Path, recording: LeRobotFolder) -> list[int] | None:
    """The episodes that the run of a saved policy held out; None if it is not of this data set."""
    from ..config.runs import SETTINGS
    from ..data import split
    from ..train.run_record import read_run

    places = policy.resolve().parents
    run = places[2] if len(places) > 2 else policy
    if not (run / SETTINGS).is_file():
        return None
    record, _ = read_run(run)
    if record.data.fingerprint != recording.fingerprint():
        return None
    settings = record.settings
    _, hold = split(recording, settings["val_fraction"], settings["seed"])
    return list(hold) or None


def draw_imagined(rows: Sequence[Mapping[str, Any]]) -> None:
    """The quality of imagined frames by horizon, next to the baseline, as a table."""
    heads = [head for label in LABELS.values() for head in (label, "copy")]
    made = table("seconds ahead", *heads, right=["seconds ahead", *heads])
    for row in rows:
        cells = []
        for name in LABELS:
            digits = 2 if name == "psnr" else 3
            cells.append(f"{_mean(row[name]['policy'], digits)}{_sign(row[name]['difference'])}")
            cells.append(_mean(row[name]["copy"], digits))
        made.add_row(f"{row['seconds']:.3g}", *cells)
    show_table(made)
    say("copy: the last observed frame, repeated; larger is better")
    say("+ or -: better or worse than the copy by more than its 95 % interval over episodes")


def _mean(found: Mapping[str, Any], digits: int) -> str:
    return f"{found['mean']:.{digits}f}"


def _sign(difference: Mapping[str, Any]) -> str:
    """Whether the interval of a difference leaves out 0: + above, - below."""
    if difference["interval_95"] is None:
        return "  "
    low, high = difference["interval_95"]
    return " +" if low > 0 else " -" if high < 0 else "  "


def draw_recorded(found: Mapping[str, Any]) -> None:
    """The findings as tables."""
    draw_imagined(found["imagined"])
    kind = "held-out episodes" if found["held_out"] else "episodes"
    say(f"{found['episodes']} {kind}, {found['clips']} clips, seed {found['seed']}")
    errors = found["actions"]
    parts = ", ".join(f"{name} {one['mean']:.3f}" for name, one in errors["groups"].items())
    say(f"action error {errors['rmse']['mean']:.3f} ({parts})")
    say("action error: RMSE in standard deviations of the recorded actions")


def describe_means(means: Mapping[str, Mapping[str, float]]) -> str:
    """Metrics of the policy, each with that of the copied frame behind it."""
    ours, copy = means["policy"], means["copy"]
    return (
        f"PSNR {ours['psnr']:.2f} dB (copy {copy['psnr']:.2f}), "
        f"SSIM {ours['ssim']:.3f} ({copy['ssim']:.3f}), "
        f"HaarPSI {ours['haarpsi']:.3f} ({copy['haarpsi']:.3f})"
    )

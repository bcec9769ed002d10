"""The result of a suite: a row for each task, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..metrics import wilson
from ..timing import add_timings
from .files import EpisodeRecord
from .plan import PlannedEpisode


def result_of(
    plan: Sequence[PlannedEpisode],
    records: Iterable[EpisodeRecord],
    settings: Mapping[str, Any],
    starts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Everything of an evaluation, as plain data; of episodes of the plan alone.

    `settings` and `starts` are those of the folder.
    """
    known = {record.key: record for record in records}
    tasks, everything = [], []
    shares: dict[str, list[PlannedEpisode]] = {}
    for episode in plan:
        shares.setdefault(episode.task.subject, []).append(episode)
    for share in shares.values():
        task, found = share[0].task, [known[e.key] for e in share if e.key in known]
        row = {"task": task.name, "number": task.number}
        tasks.append({**row, "instruction": found[0].instruction if found else None, **rate(found)})
        everything += [(task.name, record) for record in found]
    about = dict(starts[-1])
    late = settings["policy"].get("real_time")
    real_time: dict[str, Any] = {}
    if late is not None:
        timing = add_timings(record.timing for _, record in everything)
        real_time = {"real_time": {**late, **timing.summary()}}
    return {
        "suite": settings["suite"],
        "policy": about.pop("policy"),
        "complete": len(everything) == len(plan),
        "planned": len(plan),
        **rate([record for _, record in everything]),
        **real_time,
        "tasks": tasks,
        "settings": dict(settings),
        **about,
        "starts": len(starts),
        "changed_versions": _changes([start["versions"] for start in starts]),
        "per_episode": [
            {
                "task": name,
                "episode": e.episode,
                "seed": e.seed,
                "success": e.success,
                "return": e.total,
                "steps": e.steps,
                "seconds": e.seconds,
                "decision_ms": e.decision_ms,
                "film": e.film,
            }
            for name, e in everything
        ],
    }


def rate(found: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Success rate with its interval, return and length of some episodes; null for none."""
    solved = [e for e in found if e.success]
    return {
        "episodes": len(found),
        "successes": len(solved),
        "success_rate": len(solved) / len(found) if found else None,
        "interval_95": list(wilson(len(solved), len(found))) if found else None,
        "return": fmean(e.total for e in found) if found else None,
        "steps": fmean(e.steps for e in found) if found else None,
        "steps_to_success": fmean(e.steps for e in solved) if solved else None,
    }


def _changes(versions: Sequence[Mapping[str, str]]) -> list[str]:
    """Packages that had several versions in the starts of one evaluation."""
    found = dict.fromkeys(name for each in versions for name in each)
    several = {name: list(dict.fromkeys(v.get(name, "none") for v in versions)) for name in found}
    return [f"{name} {', then '.join(each)}" for name, each in several.items() if len(each) > 1]

"""Merge the shards of an evaluation: `DIR/shard-1-of-8`, ... become one evaluation in `DIR`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...config.suites import find_suite
from ...errors import WamkitError
from ...files import strict_json
from ...files.durable import as_not_written, make_folder, replacing, write_text
from .files import SETTINGS, EpisodeRecord, SuiteFolder, expect_same
from .plan import PlannedEpisode, plan_episodes, tasks_of

SHARD = re.compile(r"shard-(\d+)-of-(\d+)")


def merge(place: SuiteFolder) -> dict[str, Any]:
    """Write the episodes of all shards in `place` there, and return the settings.

    Episodes that are there already are kept. Raises WamkitError if there are no shards, or if they
    were made with different settings.
    """
    shards = [SuiteFolder(folder) for folder in _shards_in(place.folder)]
    if not shards:
        raise WamkitError(
            f"{place.folder} has no shards to merge",
            "copy the folders shard-1-of-N, ... of `wamkit eval --shard` into it",
        )
    settings: dict[str, Any] | None = None
    starts: list[Any] = []
    records: dict[tuple[str, int], EpisodeRecord] = {}
    for each in [place, *shards]:
        about = each.read_settings()
        if about is None:
            continue
        if settings is not None:
            expect_same(settings, about["settings"], each.folder)
        settings = about["settings"]
        starts += [start for start in about["starts"] if start not in starts]
        for record in each.read_episodes():
            if records.setdefault(record.key, record) is record and record.film is not None:
                _copy(each.films / record.film, place.films / record.film)
    if settings is None:
        raise WamkitError(f"the shards in {place.folder} are empty", "play them first")
    text = strict_json.dumps({"settings": settings, "starts": starts}, indent=2)
    write_text(place.folder / SETTINGS, text + "\n")
    place.write_episodes(records.values())
    return settings


def plan_of(settings: Mapping[str, Any]) -> list[PlannedEpisode]:
    """The plan that the settings of a folder describe. Raises WamkitError if none is known."""
    suite = find_suite(settings["suite"])
    if unknown := [task for task in settings["tasks"] if task not in suite.subjects]:
        raise WamkitError(
            f"suite {suite.name} has no task {', '.join(map(repr, unknown))}",
            "merge it with the version of the environment that played it",
        )
    numbers = [suite.subjects.index(subject) for subject in settings["tasks"]]
    tasks = tasks_of(suite, numbers, [])
    return plan_episodes(tasks, settings["episodes_per_task"], settings["seed"])


def _shards_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise WamkitError(f"there is no folder {folder}", "name that of --out")
    found = [(SHARD.fullmatch(place.name), place) for place in folder.iterdir() if place.is_dir()]
    return [place for name, place in sorted((int(n[1]), p) for n, p in found if n)]


def _copy(film: Path, goal: Path) -> None:
    if film == goal or not film.is_file():
        return
    with as_not_written(goal):
        make_folder(goal.parent)
    with replacing(goal) as part:
        shutil.copyfile(film, part)

"""Films of a suite: of each task, the first successes and failures that end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ...files.durable import as_not_written, make_folder
from ..video import write_video
from .files import EpisodeRecord
from .run import Played


class FilmShelf:
    """Writes films until each task has `most` of successes and of failures."""

    def __init__(
        self,
        folder: Path,
        done: Iterable[EpisodeRecord],
        most: int,
        ending: str,
        control_hz: float,
    ) -> None:
        self.folder, self.most, self.ending, self.control_hz = folder, most, ending, control_hz
        self._made = Counter((e.task, e.success) for e in done if e.film is not None)

    def record(self, played: Played) -> EpisodeRecord:
        """The record of an episode, with its film if one is wanted."""
        planned, rollout = played.planned, played.rollout
        found = EpisodeRecord(
            planned.task.subject,
            planned.number,
            planned.seed,
            rollout.success,
            rollout.steps,
            rollout.total,
            rollout.instruction,
            round(played.seconds, 3),
            None if played.decision_ms is None else round(played.decision_ms, 3),
            timing=rollout.timing,
        )
        key = planned.task.subject, rollout.success
        if not rollout.frames or self._made[key] >= self.most:
            return found
        self._made[key] += 1
        result = "success" if rollout.success else "failure"
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", planned.task.name)[:60]
        name = f"{planned.task.number:03d}_{safe}_{planned.number:03d}_{result}.{self.ending}"
        with as_not_written(self.folder):
            make_folder(self.folder)
        write_video(rollout, self.folder / name, self.control_hz / played.every, 1)
        return replace(found, film=name)

"""The folder of a suite's evaluation: what was asked, and every episode as soon as it ends.

    DIR/settings.json     what decides the results, and what they were computed with
    DIR/episodes.jsonl    a line for each episode, flushed to the disk before the next decision
    DIR/films/            of successes and failures
    DIR/shard-2-of-8/     the same, of a share
    DIR/eval.json         all of it as one result
    DIR/index.html        as a page

A killed run loses the episodes that were running, and nothing else: the same command plays them
again. A folder of other settings is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ...errors import WamkitError, shortened
from ...files import strict_json
from ...files.durable import as_not_written, make_folder, sync, write_text
from ..timing import EpisodeTiming
from . import stored
from .plan import Shard

SETTINGS, EPISODES, FILMS, RESULT, PAGE = (
    "settings.json",
    "episodes.jsonl",
    "films",
    "eval.json",
    "index.html",
)


@dataclass(frozen=True)
class EpisodeRecord:
    """What became of one episode."""

    task: str
    episode: int
    seed: int
    success: bool
    steps: int
    total: float
    """Rewards together."""
    instruction: str
    seconds: float
    decision_ms: float | None = None
    """Mean time of a decision, of the whole batch; None for a baseline."""
    film: str | None = None
    """File in `films`."""
    timing: EpisodeTiming | None = None
    """Of chunks that came late (`--real-time`)."""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the episode."""
        return self.task, self.episode


class SuiteFolder:
    """One such folder, of a whole evaluation or of a shard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.films = folder / FILMS

    @classmethod
    def of(cls, folder: Path, shard: Shard | None) -> Self:
        """The folder itself, or that of a shard in it."""
        if shard is None:
            return cls(folder)
        return cls(folder / f"shard-{shard.index + 1}-of-{shard.count}")

    def begin(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> list[EpisodeRecord]:
        """Begin or continue; the episodes that are there already.

        `settings` decide the results and must be those of the folder; `about` is noted for each
        start. Raises WamkitError with all that differs.
        """
        with as_not_written(self.folder):
            make_folder(self.folder)
        before = self.read_settings()
        if before is not None:
            expect_same(before["settings"], settings, self.folder)
        starts = [*(before["starts"] if before else []), dict(about)]
        found = {"settings": dict(settings), "starts": starts}
        write_text(self.folder / SETTINGS, strict_json.dumps(found, indent=2) + "\n")
        return self.read_episodes(mend=True)

    def read_settings(self) -> dict[str, Any] | None:
        """The settings and starts; None if there are none. Raises WamkitError if damaged."""
        file = self.folder / SETTINGS
        if not file.is_file():
            return None
        return stored.read_settings(file)

    def read_episodes(self, *, mend: bool = False) -> list[EpisodeRecord]:
        """All finished episodes; with `mend`, a last line that was cut short is removed.

        Raises WamkitError if another line is damaged.
        """
        file = self.folder / EPISODES
        if not file.is_file():
            return []
        raw = file.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if mend and whole != raw:
            with as_not_written(file), open(file, "r+b") as cut:
                cut.truncate(len(whole))
                os.fsync(cut.fileno())
        records: dict[tuple[str, int], EpisodeRecord] = {}
        for number, line in enumerate(whole.decode(errors="replace").splitlines(), 1):
            try:
                record = stored.parse_episode(line)
            except ValueError as error:
                raise WamkitError(
                    f"{file}, line {number}, is damaged: {error}",
                    "remove this line; the same command plays its episode again",
                ) from None
            records.setdefault(record.key, record)
        return list(records.values())

    def add(self, record: EpisodeRecord) -> None:
        """Append an episode, and flush it to the disk."""
        file = self.folder / EPISODES
        line = strict_json.dumps(asdict(record)).encode() + b"\n"
        with as_not_written(file, f"the episodes before it are in {file}"):
            is_new = not file.exists()
            with open(file, "ab") as out:
                out.write(line)
                out.flush()
                os.fsync(out.fileno())
            if is_new:
                sync(self.folder)

    def write_episodes(self, records: Iterable[EpisodeRecord]) -> None:
        """Replace all episodes, atomically."""
        lines = "".join(strict_json.dumps(asdict(record)) + "\n" for record in records)
        write_text(self.folder / EPISODES, lines)


def expect_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise WamkitError with every setting that differs."""
    faults = list(_differences(before, json.loads(strict_json.dumps(now))))
    if faults:
        raise WamkitError(
            f"{folder} holds an evaluation with other settings: {'; '.join(faults)}",
            "type the same command again, or choose another --out",
        )


def _differences(before: Any, now: Any, key: str = "") -> Iterable[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            inner = f"{key}.{name}" if key else name
            yield from _differences(before.get(name), now.get(name), inner)
    elif before != now:
        texts = [shortened(strict_json.dumps(value), 80) for value in (before, now)]
        yield f"{key} was {texts[0]} and is {texts[1]}"

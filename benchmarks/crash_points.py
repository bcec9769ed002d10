"""Commands killed (SIGKILL) before each of their changes on disk, and what is left of their work.

    python benchmarks/crash_points.py [--only VERB] [--kills N] [--out FILE]

Each scenario of `crash_scenarios.py` begins in a folder that is prepared once. Its command is
killed before its change number 1, 2, ... until it ends by itself. After each kill a reader looks
for what the command writes, the next command is run, and the result and the files are compared with
those of a command that nobody killed. Nothing is mocked: a kernel filter (`crash_hook.py`) sees the
changes of every thread, library and process. Needs Linux 5.5.

old, new: what was there before, or what the command writes, is in its place and whole. begun again:
there was nothing yet. lost: nothing usable, or the next command fails or comes to something else.
leftovers: files that are still there after the next command, and no others would be. not on disk:
what gets its place by a rename and was not written through before (fsync).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forked processes have no threads of their parent

from crash_hook import KEEPS, adopt, available, follow, unkept
from crash_saving import SAVING
from crash_saving import WARM as OF_SAVING
from crash_scenarios import SCENARIOS as OF_TRAINING
from crash_scenarios import Command, Scenario, warm

SCENARIOS = (*OF_TRAINING, *SAVING)
COLUMNS = ("old", "new", "begun again", "lost")


@dataclass
class Tally:
    """What the kills of one scenario came to."""

    verb: str
    points: int = 0  # changes on disk before which the command can be killed
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    leftovers: set[str] = field(default_factory=set)
    unkept: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Kills that were made."""
        return sum(self.verdicts.values())

    def row(self) -> str:
        """A row of the table."""
        found = [str(self.verdicts[name]) for name in COLUMNS]
        cells = [self.verb, self.points, self.tried, *found, len(self.leftovers), len(self.unkept)]
        return "| " + " | ".join(map(str, cells)) + " |"


HEADER = "\n".join(
    [
        "| verb | changes | killed | old | new | begun again | lost | leftovers | not on disk |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
)


class Trial:
    """One scenario in a folder: what was there before, and what an undisturbed command leaves."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        """Raises RuntimeError if the scenario itself does not work."""
        self.scenario, self.folder = scenario, folder
        self.home, self.before = folder / "home", folder / "before"
        self.output = folder / "output.txt"
        self.home.mkdir(parents=True)
        self._expect(lambda: scenario.prepare(self.home), "cannot be prepared")
        shutil.copytree(self.home, self.before, symlinks=True)
        self.old = self._found()
        ended = follow(self._command(), self.home, self.output)
        if ended.code != 0:
            raise RuntimeError(f"{scenario.verb} fails by itself: {self._printed()}")
        self.points = len(list(_counted(ended.changes)))
        self.unkept = [str(p.relative_to(self.home)) for p in unkept(ended.changes)]
        self.new = self._found()
        self.known = set(self._answers(lambda: scenario.between(self.home))) | {self.new}
        self.files = _files(self.home)

    def kill(self, k: int, tally: Tally) -> bool:
        """Kill the command before change `k`, and add what came of it; False if it had ended."""
        self._restore()
        if follow(self._command(), self.home, self.output, kill_before=k).code is not None:
            return False
        found = self._found()
        verdict = self._verdict(found)
        again = self.scenario.again(self.home)
        ended = follow(lambda: _typed(again), Path("/nowhere"), self.output)
        if ended.code != 0:
            self._fault(tally, k, f"the next command fails: {self._printed()}")
            verdict = "lost"
        elif (last := self._found()) != self.new:
            self._fault(tally, k, f"the next command comes to {last}, not to {self.new}")
            verdict = "lost"
        elif verdict == "lost":
            self._fault(tally, k, f"a reader finds {found}")
        tally.verdicts[verdict] += 1
        tally.leftovers |= _files(self.home) - self.files
        return True

    def _verdict(self, found: str) -> str:
        if found == self.old:
            return "old" if self.scenario.standing else "begun again"
        return "new" if found in self.known else "lost"

    def _fault(self, tally: Tally, k: int, command: str) -> None:
        tally.faults.append(f"{self.scenario.verb}, killed before change {k}: {command}")

    def _restore(self) -> None:
        shutil.rmtree(self.home)
        shutil.copytree(self.before, self.home, symlinks=True)

    def _command(self) -> Callable[[], int]:
        args = self.scenario.command(self.home)
        return lambda: _typed(args)

    def _printed(self) -> str:
        return " ".join(self.output.read_text(errors="replace").split())[-1500:]

    def _expect(self, act: Callable[[], object], problem: str) -> None:
        def run() -> int:
            act()
            return 0

        if follow(run, Path("/nowhere"), self.output).code != 0:
            raise RuntimeError(f"{self.scenario.verb} {problem}: {self._printed()}")

    def _answers(self, ask: Callable[[], Iterable[str]]) -> list[str]:
        """What a function says in a process of its own, line by line."""
        self._expect(lambda: print(*ask(), sep="\n"), "cannot be read")
        return self.output.read_text().splitlines()

    def _found(self) -> str:
        """What a reader finds where the command writes, or what it says if that is nothing."""
        from wamkit.errors import WamkitError

        def look() -> Iterator[str]:
            try:
                yield self.scenario.found(self.home)
            except WamkitError as error:
                yield f"an error: {' '.join(str(error).split())}"

        return "\n".join(self._answers(look))


def _typed(command: Command | Callable[[], object]) -> int:
    from wamkit.cli import app

    if callable(command):
        command()
        return 0
    app([str(word) for word in command], prog_name="wamkit")
    return 0


def _counted(changes: Iterable[object]) -> Iterator[object]:
    """Changes before which a kill is tried: of writes that follow each other the first two."""
    row: list[object] = []
    for change in changes:
        row = [*row, change] if row and row[-1] == change else [change]
        if change.call not in KEEPS and len(row) <= 2:  # type: ignore[attr-defined]
            yield change


def _files(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*")}


def spread(points: int, kills: int | None) -> list[int]:
    """So many of the numbers 1 to `points`, evenly; all of them if there are not more."""
    if kills is None or kills >= points:
        return list(range(1, points + 1))
    return sorted({1 + round(i * (points - 1) / max(1, kills - 1)) for i in range(kills)})


def tried(scenario: Scenario, folder: Path, chosen: Callable[[int], Iterable[int]]) -> Tally:
    """Kill a scenario's command before those changes that are `chosen` of so many."""
    trial = Trial(scenario, folder)
    tally = Tally(scenario.verb, trial.points, unkept=trial.unkept)
    for k in chosen(trial.points):
        if not trial.kill(k, tally):
            break
    return tally


def _reported(scenario: Scenario, place: Path, kills: int | None) -> Tally:
    """Try a scenario, and print its row and what is wrong."""
    begin, folder = time.monotonic(), place / scenario.verb.replace(" ", "-")
    tally = tried(scenario, folder, lambda n: spread(n, kills))
    print(tally.row(), flush=True)
    for line in tally.faults[:10]:
        print(line, file=sys.stderr)
    for kind, names in ("left over", sorted(tally.leftovers)), ("not on disk", tally.unkept):
        for name in names[:10]:
            print(f"{scenario.verb}: {kind}: {name}", file=sys.stderr)
    print(f"{scenario.verb}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    shutil.rmtree(folder)
    return tally


def main(arguments: Sequence[str] | None = None) -> list[Tally]:
    """Try the scenarios, and print the table."""
    verbs = [scenario.verb for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=verbs, help="a verb; may be repeated")
    parser.add_argument("--kills", type=int, help="so many of each verb, evenly; all by default")
    parser.add_argument("--out", type=Path, help="write the table here too")
    chosen = parser.parse_args(arguments)
    if not available():
        print("this needs Linux 5.5 or later, and a kernel that lets processes install filters")
        return []
    adopt()
    warm(*OF_SAVING)
    print(HEADER, flush=True)
    tallies = []
    place = Path(tempfile.mkdtemp(prefix="crash-points-"))  # forked processes must not remove it
    try:
        for scenario in SCENARIOS:
            if not chosen.only or scenario.verb in chosen.only:
                tallies.append(_reported(scenario, place, chosen.kills))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if chosen.out is not None:
        rows = [tally.row() for tally in tallies]
        chosen.out.write_text("\n".join([HEADER, *rows]) + "\n")
    return tallies


if __name__ == "__main__":
    main()

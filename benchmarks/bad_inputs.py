"""Thousands of bad inputs to wamkit's commands, and what becomes of each.

    python benchmarks/bad_inputs.py --out bad_inputs.jsonl

A case writes its input into a folder of its own, types one command in a fork of this process, and
compares what comes with what has to come: a refusal with a message and a hint, or, for odd inputs
that are right, the right answer. Nothing may change outside the folder that the command is to
write, within 30 s of processor time and 4 GiB of memory. The file at --out has a line a case; the
same command goes on where it stopped. The last thing printed is the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from inputs import AREAS, material, process, verdict
from inputs.case import Case, Chosen, Outcome

COUNT = 250


class Bench:
    """A warm process with the valid inputs at hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        process.warm()
        self.material = root / "material"
        if not self.material.is_dir():
            child = os.fork()  # so that this process never starts threads of libraries
            if child == 0:
                code = 1
                try:
                    material.write(self.material.with_suffix(".part"))
                    code = 0
                finally:
                    os._exit(code)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                raise RuntimeError("the valid inputs could not be made")
            self.material.with_suffix(".part").rename(self.material)
        self._valid: dict[tuple[str, str], Any] = {}

    def chosen(self, area: str, count: int) -> Chosen:
        """The cases of an area."""
        return Chosen.of(area, import_module(f"inputs.{area}").cases(self.material), count)

    def judged(self, area: str, case: Case) -> tuple[str, str, Outcome]:
        """Verdict, what was seen, and how the command ended."""
        valid = None
        if case.expected in ("accepted", "same") and case.look is None:
            valid = self.answer(area, case.valid)
        with tempfile.TemporaryDirectory(dir=self.root, prefix="case-") as place:
            here, outcome = self._run(case, Path(place))
            return *verdict.judge(case, outcome, valid, here), outcome

    def answer(self, area: str, key: str) -> Any:
        """What comes of the valid input of an area. Raises RuntimeError if it is refused."""
        if (area, key) not in self._valid:
            module = import_module(f"inputs.{area}")
            case = module.valid(self.material, *([key] if key else []))
            with tempfile.TemporaryDirectory(dir=self.root, prefix="case-") as place:
                _, outcome = self._run(case, Path(place))
            if outcome.code:
                raise RuntimeError(f"{area}: the valid input {key!r} is refused: {outcome.err}")
            self._valid[area, key] = verdict.answer(outcome)
        return self._valid[area, key]

    def _run(self, case: Case, place: Path) -> tuple[Path, Outcome]:
        here = place / "here"
        here.mkdir()
        (place / "outside").mkdir()
        (place / "outside" / "file").write_text("not to be read or written\n")
        case.make(here)
        return here, process.run(case.command, place)


def main(args: Sequence[str] | None = None) -> None:
    """Run what is typed, and print the table."""
    options = _arguments(args)
    began = time.time()
    done = _read(options.out)
    chosen: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as fresh:
        bench = Bench(Path(options.folder or fresh))
        for area in options.areas:
            cases = bench.chosen(area, options.count).cases
            chosen |= {(area, case.name) for case in cases}
            with options.out.open("a") as stream:
                for line in _lines(bench, area, cases, options, done):
                    stream.write(json.dumps(line) + "\n")
                    stream.flush()
                    if line["verdict"] != "right" or options.verbose:
                        print(
                            f"{area}: {line['case']}: {line['verdict']}: {line['seen']}", flush=True
                        )
    found = {key: line for key, line in _read(options.out).items() if key in chosen}
    print(table(found, options.areas), end="")
    print(f"\n{describe(began)}")


def _arguments(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("areas", nargs="*", help=f"of {', '.join(AREAS)}; all if left out")
    parser.add_argument("--out", type=Path, default=Path("bad_inputs.jsonl"))
    parser.add_argument("--count", type=int, default=COUNT, help="cases of each area")
    parser.add_argument("--sample", type=int, help="evenly, so many of these cases")
    parser.add_argument("--only", help="cases whose name contains this, unless known to be right")
    parser.add_argument("--again", action="store_true", help="also those that went wrong before")
    parser.add_argument("--folder", type=Path, help="where to work; kept, and used again")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    options = parser.parse_args(args)
    options.areas = options.areas or list(AREAS)
    if unknown := set(options.areas) - set(AREAS):
        parser.error(f"no such area: {', '.join(sorted(unknown))}")
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    return options


def _lines(
    bench: Bench,
    area: str,
    chosen: Sequence[Case],
    options: argparse.Namespace,
    done: dict[tuple[str, str], Any],
) -> Iterator[dict[str, Any]]:
    """One result after another, of cases that have none yet."""
    for case in chosen[:: max(1, len(chosen) // (options.sample or len(chosen)))]:
        last = done.get((area, case.name), {}).get("verdict")
        if last == "right" or (last and not options.again and options.only is None):
            continue
        if options.only is not None and options.only not in case.name:
            continue
        name, seen, outcome = bench.judged(area, case)
        yield {
            "area": area,
            "case": case.name,
            "verdict": name,
            "seen": seen,
            "command": list(case.command),
            "expected": case.expected,
            "accepted": outcome.code == 0,
            "seconds": round(outcome.seconds, 2),
            "MiB": round(outcome.peak / 2**20),
        }


def _read(file: Path) -> dict[tuple[str, str], Any]:
    """The last result of each case."""
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {(line["area"], line["case"]): line for line in lines}


def table(found: dict[tuple[str, str], Any], areas: Sequence[str] = AREAS) -> str:
    """A row for each area: cases, valid ones among them, right ones, and each kind of wrong."""
    counts = {area: Counter[str]() for area in areas}
    valid: Counter[str] = Counter()
    for (area, _), line in found.items():
        if area in counts:
            counts[area][line["verdict"]] += 1
            valid[area] += line["expected"] == "accepted"
    header = ["area", "cases", "valid but odd", *verdict.KINDS]
    rows = [header, ["---"] * len(header)]
    for name, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        numbers = [count[kind] for kind in verdict.KINDS]
        odd = valid[name] if name in counts else sum(valid.values())
        rows.append([name, *map(str, (count.total(), odd, *numbers))])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def describe(began: float) -> str:
    """Date, machine and duration."""
    import torch

    day, minutes = time.strftime("%Y-%m-%d", time.gmtime(began)), (time.time() - began) / 60
    where = f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}"
    return f"{day}, {where}, torch {torch.__version__}, {minutes:.1f} minutes of this call"


if __name__ == "__main__":
    main()

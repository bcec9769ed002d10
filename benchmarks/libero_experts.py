"""How often do the scripted experts of LIBERO succeed? One process, resumable.

    python benchmarks/libero_experts.py out/experts.jsonl --suites libero_object libero_spatial
    python benchmarks/libero_experts.py out/experts.jsonl --table

Each episode begins at one of the official initial states, that of its seed, and is one JSON line as
soon as it is over; what has its line is not played again. Nothing is rendered but the first image.
Tasks without a script are left out. `--table` prints what was measured so far, as Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

from wamkit.config.registry import registry
from wamkit.errors import WamkitError
from wamkit.simulate.env_pool import EnvPool
from wamkit.simulate.environment import choose
from wamkit.simulate.rollout import play


def lines(path: Path) -> list[dict[str, Any]]:
    """What was measured; a line that was cut off is left out."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def measure(path: Path, task: str, seeds: Sequence[int], noise: float) -> None:
    """Play the episodes of one task, and write each."""
    config = choose(f"libero:{task}", ["size=32"])
    try:
        with EnvPool(config, 1) as workers, path.open("a", encoding="utf-8") as out:
            start = perf_counter()
            for one in play(workers, seeds, "expert", noise=noise):
                spent, start = perf_counter() - start, perf_counter()
                row = {"task": task, "seed": one.seed, "noise": noise, "success": one.success}
                row |= {"steps": one.steps, "seconds": round(spent, 2)}
                out.write(json.dumps(row) + "\n")
                out.flush()
        print(f"{task}: {len(seeds)} episodes", flush=True)
    except WamkitError as error:
        print(f"{task}: {error.what}", flush=True)


def tabulate(found: Sequence[dict[str, Any]]) -> None:
    """Print a row for each task: successes without and with noise, and actions of a success."""
    part: Any = registry().get("environment", "libero")
    subjects = part.subjects
    noises = sorted({row["noise"] for row in found})
    print("| task | instruction |", *(f"noise {noise:g} |" for noise in noises), "actions |")
    print("|---|---|" + "---|" * (len(noises) + 1))
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        by_task[row["task"]].append(row)
    for task, instruction in subjects.items():
        if rows := by_task.get(task):
            cells = []
            for noise in noises:
                of = [row["success"] for row in rows if row["noise"] == noise]
                cells.append(f"{sum(of)} of {len(of)} |" if of else "- |")
            steps = [row["steps"] for row in rows if row["success"]]
            print(f"| {task} | {instruction} |", *cells, f"{mean(steps):.0f} |" if steps else "- |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description="How often the experts of LIBERO succeed.")
    parser.add_argument("out", type=Path, help="JSON lines, which are added to")
    parser.add_argument("--suites", nargs="*", default=["libero_object"])
    parser.add_argument("--tasks", nargs="*", help="such as libero_goal/8, instead of suites")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.table:
        tabulate(lines(asked.out))
        return
    part: Any = registry().get("environment", "libero")
    suites = part.suites
    tasks = asked.tasks or [task for suite in asked.suites for task in suites[suite]]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["task"], row["seed"], row["noise"]) for row in lines(asked.out)}
    for task in tasks:
        seeds = [s for s in range(asked.episodes) if (task, s, asked.noise) not in done]
        if seeds:
            measure(asked.out, task, seeds, asked.noise)


if __name__ == "__main__":
    main()

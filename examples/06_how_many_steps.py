"""What one learns: what denoising steps and solvers buy a policy, in error and in milliseconds.

The dot of toy_task.py may go around either side: two right answers, whose mean is a wrong one. A
policy trained with flow matching must start from noise and choose. One big step lands near the
mean; more steps, or better ones, follow the flow to one of the two. Measured here, for one trained
policy, the same noise, and every count of network evaluations that a solver can spend:

    error       distance from the nearest right way, in fields: what a robot would feel
    deviation   distance from the flow's own end (128 Euler steps): what a solver is to blame for

    python examples/06_how_many_steps.py --out figures    # writes steps.svg and deviation.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

from torch import Tensor
from toy_task import SPEC, STEPS, demonstrations, learn

import wamkit
from wamkit.config.noise_schedule import TWICE
from wamkit.files.plots import lines, style, write

SOLVERS = ("euler", "midpoint", "heun", "unipc", "ab2")


def solve(policy: wamkit.Policy, solver: str, steps: int) -> None:
    """Let the actions be denoised by this solver in so many network evaluations from now on."""
    flow = policy.schedules["action"]
    config = flow.config.model_copy(update={"solver": solver, "steps": steps})
    policy.schedules["action"] = replace(flow, config=config)


def milliseconds(policy: wamkit.Policy, seen: wamkit.Observation, times: int) -> float:
    """Median time of one chunk for one observation, after one that is not counted."""
    took = []
    for _ in range(times + 1):
        begin = perf_counter()
        policy.act(seen, seed=0)
        took.append(1000 * (perf_counter() - begin))
    return median(took[1:])


def interval(values: Tensor) -> str:
    """Mean and half the width of its 95 % interval, over the test tasks."""
    half = 1.96 * float(values.std()) / len(values) ** 0.5
    return f"{values.mean():.4f} ±{half:.4f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train once, then measure every solver at every count of evaluations."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(), help="folder for the figures")
    options.add_argument("--steps", type=int, default=800, help="of training")
    options.add_argument("--quick", action="store_true", help="hardly trained, few counts")
    given = options.parse_args(arguments)
    training, tasks, times = (5, 8, 1) if given.quick else (given.steps, 256, 7)
    counts = (1, 2, 4) if given.quick else (1, 2, 3, 4, 6, 8, 16, 32)

    policy = wamkit.build(SPEC)
    for _ in learn(policy, demonstrations(4096, seed=0, arcs=True), training):
        pass
    test = demonstrations(tasks, seed=1, arcs=True)
    seen, one = test.observation(), demonstrations(1, seed=2, arcs=True).observation()
    straight = test.errors(test.ways.mean(1).diff(dim=1) * STEPS).mean()
    print(f"straight through the middle, between the two right ways: error {straight:.4f}")
    solve(policy, "euler", 128)
    finest = policy.act(seen, seed=0).values  # [B, 8, 2]
    print(f"the flow's own end: error {interval(test.errors(finest))}, 95 % interval over tasks")

    found: dict[tuple[str, int], Tensor] = {}  # error of every task [B]
    error: dict[str, list[tuple[float, float]]] = {name: [] for name in SOLVERS}
    deviation: dict[str, list[tuple[float, float]]] = {name: [] for name in SOLVERS}
    print(f"\n{'solver':9} {'evaluations':>11} {'error':>16} {'deviation':>16} {'ms a chunk':>11}")
    for count in counts:
        for name in SOLVERS:
            if name in TWICE and count % 2:
                continue  # these evaluate twice a step
            solve(policy, name, count)
            values = policy.act(seen, seed=0).values
            wrong = found[name, count] = test.errors(values)
            apart = ((values - finest).cumsum(1) / STEPS).norm(dim=-1).mean(-1)  # [B], in fields
            took = milliseconds(policy, one, times)
            error[name].append((count, float(wrong.mean())))
            deviation[name].append((count, float(apart.mean())))
            print(f"{name:9} {count:11} {interval(wrong):>16} {interval(apart):>16} {took:11.1f}")
    print("\nmidpoint minus Euler, task by task:")
    for count in (count for count in counts if count % 2 == 0):
        gap = found["midpoint", count] - found["euler", count]  # [B]
        print(f"  {count:2} evaluations: {interval(gap)}")
    x = "network evaluations"
    with style():
        drawn = lines(error, x=x, y="error, fields", log=True)
        print("wrote", write(given.out / "steps.svg", drawn))
        drawn = lines(deviation, x=x, y="deviation, fields", log=True)
        print("wrote", write(given.out / "deviation.svg", drawn))


if __name__ == "__main__":
    main()

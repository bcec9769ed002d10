"""What one learns: how to ask whether learning to imagine helps to act, and how to read the answer.

The same task, demonstrations, first weights and number of steps, twice: once the image to come is
learned next to the actions (video co-training), once the actions are learned alone. Demonstrations
are few, so that there is room to differ. One run says nothing: seeds change the demonstrations,
the first weights and the noise, so both ways are trained with every seed, and what counts is the
mean of the differences and its 95 % interval (Student's t, pairs by seed).

    python examples/05_video_helps.py --seeds 5 --out figures     # writes figures/video.svg

A toy answers for itself alone. Whether co-training helps a robot has to be asked with the robot:
benchmarks/video_helps.py asks it of any recorded data set, and of a simulator where there is one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

from toy_task import SPEC, Demonstrations, demonstrations, learn

import wamkit
from wamkit.files.plots import bars, style, write

WAYS = {"actions alone": False, "with video": True}
# 97.5 % quantile of Student's t with n - 1 degrees of freedom, for n = 2, 3, ... runs
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def trained(data: Demonstrations, steps: int, seed: int, *, video: bool) -> wamkit.Policy:
    """A policy that learned from `data`, with or without the image to come."""
    spec: dict[str, Any] = {**SPEC, "seed": seed}
    spec["paradigm"] = {"name": "single_pass", "co_training": video}
    policy = wamkit.build(spec)
    for _ in learn(policy, data, steps, seed=seed):
        pass
    return policy


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    return mean(values), T[len(values) - 2] * stdev(values) / len(values) ** 0.5


def verdict(differences: Sequence[float]) -> str:
    """What the differences (with video minus without) allow to be said, and no more."""
    middle, half = interval(differences)
    if abs(middle) <= half:
        return "The interval contains 0: these runs do not show that video helps, or that it hurts."
    word = "smaller" if middle < 0 else "larger"
    return f"The interval leaves out 0: in this setting the error with video is {word}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every seed both ways, and compare."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(), help="folder for video.svg")
    options.add_argument("--seeds", type=int, default=3, choices=range(2, 11), metavar="2..10")
    options.add_argument("--demonstrations", type=int, default=1024, help="to learn from")
    options.add_argument("--steps", type=int, default=300, help="of training")
    options.add_argument("--quick", action="store_true", help="two seeds, hardly trained")
    given = options.parse_args(arguments)
    seeds, steps = (2, 3) if given.quick else (given.seeds, given.steps)
    test = demonstrations(32 if given.quick else 512, seed=1_000_000)

    print(f"{given.demonstrations} demonstrations, {steps} steps; error: distance from the way")
    print(f"{'seed':>4} " + " ".join(f"{way:>14}" for way in WAYS) + f" {'difference':>12}")
    errors: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds = dict.fromkeys(WAYS, 0.0)
    for seed in range(seeds):
        data = demonstrations(given.demonstrations, seed=seed)
        for way, video in WAYS.items():
            begin = perf_counter()
            policy = trained(data, steps, seed, video=video)
            seconds[way] += (perf_counter() - begin) / seeds
            chunk = policy.act(test.observation(), seed=0)
            errors[way].append(float(test.errors(chunk.values).mean()))
        row = [errors[way][-1] for way in WAYS]
        print(f"{seed:4} {row[0]:14.4f} {row[1]:14.4f} {row[1] - row[0]:+12.4f}", flush=True)

    alone, video_too = errors.values()
    differences = [b - a for a, b in zip(alone, video_too, strict=True)]
    print(f"mean and 95 % interval of {seeds} seeds:")
    for name, values in (*errors.items(), ("difference", differences)):
        middle, half = interval(values)
        print(f"  {name:13} {middle:+.4f} ±{half:.4f}")
    print(verdict(differences))
    took = ", ".join(f"{way} {value:.0f} s" for way, value in seconds.items())
    print(f"Steps are the same, work is not; one training took: {took}.")
    each = {f"error, seed {k}": {w: errors[w][k] for w in WAYS} for k in range(seeds)}
    with style():
        print("wrote", write(given.out / "video.svg", bars(each)))


if __name__ == "__main__":
    main()

"""How the time of a chunk grows with the work: tokens, cameras, frames, steps, batch, layers.

    python benchmarks/growth.py [FOLDER]

A small composition around the toy backbone, one size multiplied at a time by 1, 2, 4 and 8, on the
CPU: medians of 5 from images to actions, all sizes in turn, and the operations that were counted.
Writes one image for each size into FOLDER (benchmarks/plots): time and operations over those of
factor 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import wamkit
from wamkit.bench import machine
from wamkit.config.spec import override, read
from wamkit.files.plots import lines, style, write
from wamkit.policy.cost import Counter
from wamkit.testing.fixtures import observation

SPEC = Path(__file__).parent.parent / "examples" / "toy.toml"
FACTORS = (1, 2, 4, 8)
AXES = ("tokens", "cameras", "frames", "steps", "batch", "layers")


def sized(paradigm: str, axis: str, factor: int) -> tuple[dict[str, Any], int]:
    """A spec with one size multiplied, and its batch."""
    sizes = dict.fromkeys(AXES, 1) | {axis: factor}
    raw = dict(read(SPEC)) | {"paradigm": {"name": paradigm}}
    size = [64, 64 * sizes["tokens"]]
    views = [{"name": f"camera {i}", "size": size} for i in range(sizes["cameras"])]
    raw["cameras"] = {"layout": "side_by_side", "views": views}
    return override(
        raw,
        [
            f"backbone.depth={2 * sizes['layers']}",
            f"video.num_frames={1 + 4 * sizes['frames']}",
            f"schedules.action.steps={2 * sizes['steps']}",
            f"schedules.video.steps={2 * sizes['steps']}",
        ],
    ), sizes["batch"]


@torch.no_grad()
def grown(paradigm: str, axis: str) -> list[tuple[int, float, float]]:
    """factor, median seconds and operations of a chunk."""
    ready = []
    for factor in FACTORS:
        raw, batch = sized(paradigm, axis, factor)
        policy = wamkit.build(raw)
        seen = observation(policy.spec, batch=batch)
        policy.act(seen, seed=0)
        with Counter() as counter:
            policy.act(seen, seed=0)
        ready.append((policy, seen, counter.operations))
    times: list[list[float]] = [[] for _ in ready]
    for _ in range(5):
        for i, (policy, seen, _) in enumerate(ready):
            start = time.perf_counter()
            policy.act(seen, seed=0)
            times[i].append(time.perf_counter() - start)
    return [
        (factor, statistics.median(t), float(work))
        for factor, t, (_, _, work) in zip(FACTORS, times, ready, strict=True)
    ]


def draw(folder: Path, axis: str, series: dict[str, list[tuple[float, float]]]) -> None:
    """One figure: time and work of a chunk relative to factor 1, over the factor."""
    with style():
        figure = lines(series, x=f"{axis}, relative to 1", y="time or work of a chunk, relative")
        write(folder / f"growth_{axis}.svg", figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="How the time of a chunk grows with the work.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "plots")
    folder: Path = parser.parse_args().folder
    about = machine(torch.device("cpu"))
    print(
        f"{about['name']}, {about['threads']} threads, load {about['load']}, torch "
        f"{about['torch']}, {about['date']}\n"
    )
    print(
        "| paradigm | grows | ms at 1 | " + " | ".join(f"time at {f}" for f in FACTORS[1:]), end=""
    )
    print(" | " + " | ".join(f"work at {f}" for f in FACTORS[1:]) + " |")
    print("|---" * (3 + 2 * len(FACTORS[1:])) + "|")
    for axis in AXES:
        series: dict[str, list[tuple[float, float]]] = {}
        for paradigm in ("single_pass", "joint"):
            found = grown(paradigm, axis)
            _, base, work = found[0]
            series[f"{paradigm}, time"] = [(float(f), s / base) for f, s, _ in found]
            series[f"{paradigm}, work"] = [(float(f), w / work) for f, _, w in found]
            cells = [f"{s / base:.2f}x" for _, s, _ in found[1:]]
            cells += [f"{w / work:.2f}x" for _, _, w in found[1:]]
            print(f"| {paradigm} | {axis} | {1000 * base:.1f} | " + " | ".join(cells) + " |")
        draw(folder, axis, series)
    print(f"\nwrote {folder}/growth_*.svg")


if __name__ == "__main__":
    main()

"""Time published systems at their sizes with random weights on a GPU, each against its floor.

    python benchmarks/published_sizes.py [NAME ...] [--seconds 560]
    python benchmarks/published_sizes.py --tiny      # the same at toy size on the CPU

Needs a CUDA device; without one it says so and ends. For each spec of examples/ and each mode: what
`wamkit bench` measures of a chunk, and whether a cached step gives what the full pass gives. Text
comes from the byte encoder at the width of the published one, which runs once for an instruction
and is part of no published latency. No system is begun after `--seconds`; a policy that does not
fit the memory, or cannot run in a mode, is a row that says so.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import wamkit
from wamkit.bench import Report, machine, measure
from wamkit.errors import WamkitError
from wamkit.modes import MODES, compiler, compiles, records
from wamkit.policy import Policy, generator
from wamkit.replay import uncached
from wamkit.scenes import blank
from wamkit.spec import parse, read
from wamkit.trial import observation

EXAMPLES = Path(__file__).parent.parent / "examples"
SYSTEMS = (
    "fastwam",
    "fastwam_joint",
    "fastwam_idm",
    "image_wam_4b",
    "efficient_wam",
    "light_wam",
    "cosmos_policy",
    "fastwam_on_ltx",
    "fastwam_on_cosmos",
)


def build(name: str, device: str, *, tiny: bool) -> Policy:
    """The composition of an example with random weights and a text encoder without files."""
    raw = dict(read(EXAMPLES / f"{name}.toml"))
    text = parse(raw, name).text_encoder
    raw["text_encoder"] = {"name": "bytes", "length": text.max_tokens - 1, "embedding": text.width}
    if raw["action_head"].get("init") == "video":
        raw["action_head"] = raw["action_head"] | {"init": "random"}
    with torch.device(device):  # random weights are drawn where they are needed
        return wamkit.build(raw, tiny=tiny, device=device)


@torch.no_grad()
def error(policy: Policy) -> float:
    """How far actions with caches are from those without any, relative."""
    scene = blank(policy, observation(policy.spec, batch=1, frames=policy.spec.video.context))
    fast = policy.decide(scene, seed=0).action.float()
    slow = policy.paradigm.act(
        uncached(policy.guided(1)), scene, policy.schedules, generator(0)
    ).action.float()
    return float((fast - slow).norm() / slow.norm())


def modes(device: str) -> Iterator[str]:
    """Those that this machine can run in."""
    for mode in MODES:
        if (device == "cuda" or not records(mode)) and (compiler() or not compiles(mode)):
            yield mode


def cells(report: Report) -> list[str]:
    """One report as a row of the table."""
    prefill = [row.median_ms for row in report.rows if row.stage.startswith("prefill")]
    steps = [row for row in report.rows if row.stage.startswith("step")]
    per_step = sum(r.calls * r.median_ms for r in steps) / max(1, sum(r.calls for r in steps))
    vae = [row.median_ms for row in report.rows if row.stage == "VAE"]
    chunk = report.chunk
    return [
        f"{sum(vae):.1f}",
        f"{sum(prefill):.1f}" if prefill else "-",
        f"{per_step:.2f}" if steps else "-",
        f"{chunk.median_ms:.1f}",
        f"{chunk.p95_ms:.1f}",
        f"{chunk.floor_ms:.1f}",
        f"{chunk.times_floor:.2f}x" if chunk.times_floor else "-",
        f"{chunk.operations / 1e12:.2f}",
        f"{report.sustains_hertz:.0f}",
        f"{report.peak_bytes / 1e9:.1f}",
        f"{report.first_ms / 1000:.1f}",
    ]


def rows(name: str, device: str, *, tiny: bool) -> Iterator[str]:
    """The table's rows for one system, one for each mode."""
    try:
        policy = build(name, device, tiny=tiny)
        apart = f"{error(policy):.0e}"
    except (WamkitError, torch.OutOfMemoryError) as problem:
        yield f"| {name} | - | " + str(problem).splitlines()[0] + " |"
        return
    for mode in modes(device):
        try:
            report = measure(policy, mode=mode, rounds=3 if tiny else 10, name=name)
        except (WamkitError, torch.OutOfMemoryError) as problem:
            yield f"| {name} | {mode} | " + str(problem).splitlines()[0] + " |"
            continue
        yield f"| {name} | {mode} | " + " | ".join([*cells(report), apart]) + " |"


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("names", nargs="*", default=SYSTEMS)
    given.add_argument("--tiny", action="store_true")
    given.add_argument("--seconds", type=float, default=560)
    asked: Any = given.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        print("no CUDA device: nothing to time")
        return
    device = "cpu" if asked.tiny else "cuda"
    about, begin = machine(torch.device(device)), time.perf_counter()
    size = "toy size" if asked.tiny else "published sizes"
    print(
        f"{about['name']}, torch {about['torch']}, wamkit {about['wamkit']}, {about['date']}, "
        f"{size}, random weights, batch 1; milliseconds\n"
    )
    columns = "system|mode|VAE|prefill|a step|chunk|p95|floor|over floor|TFLOP|sustains Hz|peak GB"
    columns += "|first chunk s|cached against full"
    print(f"| {columns.replace('|', ' | ')} |")
    print("|---" * (columns.count("|") + 1) + "|")
    for name in asked.names:
        if time.perf_counter() - begin > asked.seconds:
            print(f"| {name} | - | not begun: {asked.seconds:.0f} s were over |")
            continue
        for row in rows(name, device, tiny=asked.tiny):
            print(row, flush=True)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

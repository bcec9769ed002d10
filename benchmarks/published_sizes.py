"""Time Fast-WAM's published size with random weights on a GPU, and check what the cache promises.

    python benchmarks/published_sizes.py
    python benchmarks/published_sizes.py --tiny      # the same at toy size on the CPU

Needs a CUDA device with 24 GB; without one it says so and ends. Times are of the model in eager
mode, from pictures on the device to normalized actions, in milliseconds: medians of 20 after 3 runs
that are not counted. Text comes from the byte encoder at the width of UMT5: the published encoder
runs once per instruction and is not part of any published latency either.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import wamkit
from wamkit.interfaces.paradigm import remember
from wamkit.policy import Policy
from wamkit.scenes import blank, vae_dtype
from wamkit.trial import batch_of, observation
from wamkit.types import Noisy, Scene

SPEC = Path(__file__).parent.parent / "examples" / "fastwam.toml"
BYTES = {"name": "bytes", "length": 127, "embedding": 4096}


def median_ms(run: Callable[[], Any], device: torch.device, *, count: int = 20) -> float:
    """Milliseconds of one run, the device idle before and after it."""
    times = []
    for _ in range(count + 3):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def build(variant: str, vae: str, device: str, *, tiny: bool) -> Policy:
    """The composition of examples/fastwam.toml around one backbone, random weights, bfloat16."""
    from wamkit.spec import read

    raw = read(SPEC) | {"text_encoder": BYTES, "vae": {"name": vae}}
    raw["backbone"] = {"name": "wan", "variant": variant}
    raw["action_head"] = raw["action_head"] | {"init": "random"}
    with torch.device(device):  # random weights are drawn where they are needed
        return wamkit.build(raw, tiny=tiny, device=device)


@torch.no_grad()
def rows(policy: Policy) -> dict[str, float]:
    """What is timed, in milliseconds, and the error of the cached step."""
    seen, device = observation(policy.spec, batch=1), policy.device
    scene = blank(policy, seen)
    images = {k: v.to(device) for k, v in seen.images.items()}
    canvas = policy.cameras.canvas(images).to(vae_dtype(policy))
    now = scene.without("video")
    cache, rest = remember(policy.model, now, policy.paradigm.sees)
    assert scene.action is not None and scene.video is not None
    level = torch.full((1,), 0.5, device=device)
    step = rest.with_(action=Noisy(scene.action.x, level))

    def loop() -> None:
        rng = torch.Generator().manual_seed(0)
        policy.paradigm.act(policy.model, scene, policy.schedules, rng)

    full = policy.model(_with_context(scene, step.action)).action
    cached = policy.model(step, cache=cache).action
    assert full is not None and cached is not None
    runs: dict[str, Callable[[], Any]] = {
        "VAE, one frame": lambda: policy.vae.encode(canvas),
        "prefill": lambda: remember(policy.model, now, policy.paradigm.sees),
        "one action step": lambda: policy.model(step, cache=cache),
        "prefill and 10 steps": loop,
        "policy.act": lambda: policy.act(seen, seed=0),
    }
    found = {name: median_ms(run, device) for name, run in runs.items()}
    error = float((full - cached).norm() / full.norm())
    return found | {"cached against full, relative": error}


def _with_context(scene: Scene, action: Noisy | None) -> Scene:
    assert scene.video is not None
    return scene.with_(video=scene.video.only("context"), action=action)


def training_ms(policy: Policy) -> float:
    """One forward and backward pass of a batch of 4."""
    batch = batch_of(policy.spec, size=4)

    def run() -> None:
        policy.loss(batch, seed=0).total.backward()
        policy.zero_grad(set_to_none=True)

    return median_ms(run, policy.device, count=3)


def main() -> None:
    tiny = "--tiny" in sys.argv[1:]
    if not tiny and not torch.cuda.is_available():
        print("no CUDA device: nothing to time")
        return
    device = "cpu" if tiny else "cuda"
    name = "CPU, toy size" if tiny else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, wamkit {wamkit.__version__}, bfloat16, batch 1\n")
    table = {}
    for variant, vae in (("2.2-ti2v-5b", "wan2.2"), ("2.1-t2v-1.3b", "wan2.1")):
        policy = build(variant, vae, device, tiny=tiny)
        table[variant] = rows(policy) | {"training step, batch 4": training_ms(policy)}
        if not tiny:
            table[variant]["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
            del policy
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    columns = list(table)
    print("| milliseconds |" + "".join(f" {c} |" for c in columns))
    print("|---|" + "---|" * len(columns))
    for row in table[columns[0]]:
        form = "{:.1e}" if "relative" in row else "{:.1f}"
        print(f"| {row} |" + "".join(f" {form.format(table[c][row])} |" for c in columns))


if __name__ == "__main__":
    main()

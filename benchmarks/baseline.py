"""Fast-WAM's way of acting written plainly, against wamkit's, with the same weights in one run.

    python benchmarks/baseline.py

The plain ways are what published repositories do: one boolean mask over all tokens, eager, the
words' keys and the positions computed anew in every pass. `no cache` passes the observed frames
with every action step; `joined cache` keeps their keys, and joins them with the new ones in every
layer of every step. From latents to normalized actions, 10 steps, batch 1, random weights, CPU,
float32. Medians of 7 in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import wamkit
from wamkit.attention import Stream
from wamkit.bench import machine
from wamkit.interfaces import ExpertHead, stream_of
from wamkit.modes import compiler
from wamkit.policy import Policy, generator
from wamkit.scenes import blank
from wamkit.schedule import draw
from wamkit.spec import read
from wamkit.trial import observation
from wamkit.types import Noisy, Scene
from wamkit.visibility import Visibility

SPEC = Path(__file__).parent.parent / "examples" / "fastwam.toml"
Kept = list[tuple[Tensor, Tensor, list[str]]]  # for each layer keys, values, and whose they are


def small(width: int, layers: int) -> Policy:
    """examples/fastwam.toml at a size for a CPU: 98 observed tokens, 32 actions, 128 words."""
    raw = dict(read(SPEC)) | {"dtype": "float32"}
    raw["backbone"] = {"name": "wan", "variant": "tiny", "layers": layers, "heads": width // 64}
    raw["backbone"] |= {"head_size": 64, "feed_forward": 4 * width, "latent_channels": 192}
    raw["vae"] = {"name": "pixel_shuffle", "strides": [1, 8, 8]}
    raw["text_encoder"] = {"name": "bytes", "length": 127}
    raw["action_head"] = raw["action_head"] | {"init": "random", "width": width // 2}
    raw["action_head"]["feed_forward"] = 2 * width
    views = [{"name": name, "size": [112, 112]} for name in ("image", "wrist_image")]
    raw["cameras"] = {"layout": "side_by_side", "views": views}
    raw["video"] = {"frames": 3, "every": 4}
    return wamkit.build(raw)


def plain_pass(streams: Sequence[Stream], sees: Visibility, past: Kept | None) -> Kept:
    """All layers, every one an attention of all tokens to all under one boolean mask."""
    kept: Kept = []
    names = [[s.role for s in st.segments for _ in range(s.length)] for st in streams]
    for layer in range(len(streams[0].blocks)):
        shown = [st.blocks[layer].project(st.x, st.cond) for st in streams]  # type: ignore[union-attr]
        keys, values = [qkv.k for qkv, _ in shown], [qkv.v for qkv, _ in shown]
        roles = [role for stream in names for role in stream]
        kept.append((torch.cat(keys, 2), torch.cat(values, 2), roles))
        if past is not None:
            keys, values = [past[layer][0], *keys], [past[layer][1], *values]
            roles = [*past[layer][2], *roles]
        q, k, v = (
            torch.cat([qkv.q for qkv, _ in shown], 2),
            torch.cat(keys, 2),
            torch.cat(values, 2),
        )
        if layer == 0:  # as they do: once a pass
            asking = [role for stream in names for role in stream]
            codes = {role: i for i, role in enumerate(dict.fromkeys(roles))}
            table = torch.tensor([[key in sees[row] for key in codes] for row in codes])
            mask = table[[codes[r] for r in asking]][:, [codes[r] for r in roles]]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        parts = out.split([st.x.shape[1] for st in streams], 2)
        for stream, part, (_, rest) in zip(streams, parts, shown, strict=True):
            block: Any = stream.blocks[layer]
            stream.x = block.absorb(part.transpose(1, 2).flatten(2), rest, stream.cond)
    return kept


def plainly(policy: Policy, scene: Scene, *, cached: bool) -> Tensor:
    """The actions of a scene, the plain way."""
    head, backbone, sees = policy.action_head, policy.backbone, policy.paradigm.sees
    assert isinstance(head, ExpertHead) and scene.action is not None and scene.video is not None
    levels = policy.schedules["action"].grid()
    x = draw(tuple(scene.action.x.shape), scene.action.x, generator(0))
    seen = scene.video.only("context")

    def streams(now: Scene, *, video: bool, action: bool) -> list[Stream]:
        found = [stream_of(backbone, replace(seen), now.text)] if video else []
        own = head.stream(backbone, now, ()) if action else None
        return [*found, *([own] if own is not None else [])]

    def at(sigma: float) -> Scene:
        level = torch.full((len(x),), sigma)
        return head.prepare(replace(scene, text=replace(scene.text), action=Noisy(x, level)))

    past = None
    if cached:
        past = plain_pass(streams(at(levels[0]), video=True, action=False), sees, None)
    for sigma, lower in pairwise(levels):
        passing = streams(at(sigma), video=not cached, action=True)
        plain_pass(passing, sees, past)
        x = x + (lower - sigma) * head.unembed(passing[-1])["action"]
    return x


@torch.no_grad()
def compared(policy: Policy, count: int = 7) -> Mapping[str, tuple[float, float]]:
    """way -> median seconds, and the largest difference of its actions from the first way's."""
    scene = blank(policy, observation(policy.spec, batch=1))
    fast = small(policy.spec.backbone.traits.width, policy.spec.backbone.traits.depth)
    runs: dict[str, Callable[[], Tensor]] = {
        "plain, no cache": lambda: plainly(policy, scene, cached=False),
        "plain, joined cache": lambda: plainly(policy, scene, cached=True),
        "wamkit, eager": lambda: policy.decide(scene, seed=0).action,
    }
    if compiler() is not None:
        fast.set_mode("compile")
        runs["wamkit, compile"] = lambda: fast.decide(scene, seed=0).action
    times: dict[str, list[float]] = {name: [] for name in runs}
    found = {name: run() for name, run in runs.items()}
    for _ in range(count):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    first = found["plain, no cache"]
    return {
        name: (statistics.median(times[name]), float((x - first).abs().max()))
        for name, x in found.items()
    }


def main() -> None:
    about = machine(torch.device("cpu"))
    print(
        f"{about['name']}, {about['threads']} threads, load {about['load']}, torch "
        f"{about['torch']}, wamkit {about['wamkit']}, {about['date']}\n"
    )
    print("| width x layers | way | ms | wamkit's best is faster by | largest difference |")
    print("|---|---|---|---|---|")
    for width, layers in ((256, 8), (512, 8)):
        rows = compared(small(width, layers))
        best = min(seconds for name, (seconds, _) in rows.items() if name.startswith("wamkit"))
        for name, (seconds, error) in rows.items():
            print(
                f"| {width} x {layers} | {name} | {1000 * seconds:.0f} | {seconds / best:.2f}x | "
                f"{error:.0e} |"
            )


if __name__ == "__main__":
    main()

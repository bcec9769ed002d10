"""What one learns: what closed roles are worth; the same actions, with and without a memory.

A paradigm passes what is known through the network once and remembers its keys and values (see
02_visibility.py for what may be remembered). Here each system acts twice at toy size: as it is, and
with `wamkit.replay.uncached`, which pretends to remember and computes everything anew. The actions
are the same to rounding. Then both are counted at the published sizes, on the meta device, where
every operation happens and no number is computed: no weights are needed, and no memory.

    python examples/03_cache.py --out pictures     # writes pictures/cache.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import wamkit
from wamkit.chart import bars, write
from wamkit.cost import Counter, shapes
from wamkit.interfaces import Model, Paradigm
from wamkit.policy import schedules_of
from wamkit.replay import uncached
from wamkit.scenes import blank
from wamkit.spec import PolicySpec, parse, read
from wamkit.trial import observation
from wamkit.types import Scene, Velocity

HERE = Path(__file__).parent
SYSTEMS = {
    "Fast-WAM": "fastwam",
    "Fast-WAM-Joint": "fastwam_joint",
    "Fast-WAM-IDM": "fastwam_idm",
    "Efficient-WAM": "efficient_wam",
    "ImageWAM": "image_wam_4b",
}


class Acted(NamedTuple):
    """What one chunk was, and what it took."""

    action: Tensor  # [1, N, A] normalized actions
    passes: int  # calls of the network
    operations: int  # of matrix products and attention; a multiplication and an addition are two


@torch.no_grad()
def act(
    network: Model, paradigm: Paradigm, scene: Scene, spec: PolicySpec, *, memory: bool
) -> Acted:
    """One chunk from the same noise, by the paradigm's own loop, with or without a memory."""
    passes = 0

    def counting(*given: Any, **more: Any) -> Velocity:
        nonlocal passes
        passes += 1
        return network(*given, **more)

    # A paradigm is given the network as one function. It cannot tell which of the two it is.
    model = counting if memory else uncached(counting)
    with Counter() as counter:
        out = paradigm.act(model, scene, schedules_of(spec), torch.Generator().manual_seed(0))
    return Acted(out.action, passes, counter.operations)


def distance(spec: PolicySpec) -> float:
    """The largest difference that memory makes to the actions of the system at toy size."""
    small, _ = spec.tiny()
    policy = wamkit.build(small)
    for weight in policy.parameters():  # some are zero at first, and would hide a difference
        torch.nn.init.normal_(weight, std=0.1)
    seen = observation(small, batch=1, frames=small.video.context)
    given = policy.model, policy.paradigm, blank(policy, seen), small
    gap = act(*given, memory=True).action - act(*given, memory=False).action
    return float(gap.abs().max())


def counted(spec: PolicySpec) -> tuple[Acted, Acted]:
    """A chunk at the sizes of the spec, with memory and without; nothing is really computed."""
    with torch.device("meta"):
        backbone, head = spec.backbone.build(), spec.action_head.build(spec.sizes)
    paradigm = spec.paradigm.build()

    def network(scene: Scene, **memory: Any) -> Velocity:
        return head.join(backbone, scene, paradigm.sees, **memory)

    scene = shapes(spec, head)
    kept = act(network, paradigm, scene, spec, memory=True)
    return kept, act(network, paradigm, scene, spec, memory=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of systems, and draw it."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(), help="folder for cache.svg")
    options.add_argument("--quick", action="store_true", help="two systems, counted at toy size")
    given = options.parse_args(arguments)
    systems = list(SYSTEMS.items())[: 2 if given.quick else None]
    series: dict[str, dict[str, float]] = {"TFLOP with memory": {}, "TFLOP without": {}}

    print("with, without a memory: actions apart         passes      TFLOP a chunk   saves")
    for title, name in systems:
        spec = parse(read(HERE / f"{name}.toml"), name)
        kept, anew = counted(spec.tiny()[0] if given.quick else spec)
        tera = [acted.operations / 1e12 for acted in (kept, anew)]
        row = f"{title:16} {distance(spec):9.1e} {kept.passes:7}, {anew.passes:5}"
        print(f"{row} {tera[0]:10.4g}, {tera[1]:6.4g} {tera[1] / tera[0]:6.1f}x")
        for measure, value in zip(series, tera, strict=True):
            series[measure][title] = value
    print("Passes are about as many; with a memory most of them are those of a few action tokens.")
    print(f"wrote {write(given.out / 'cache.svg', bars(series))}")


if __name__ == "__main__":
    main()

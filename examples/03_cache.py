"""What one learns: what prefill is worth; the same actions, with and without a KV cache.

A paradigm passes what is known through the network once and keeps its keys and values (see
02_visibility.py for what may be kept). Here each system acts twice from the same noise: as it is,
and with `wamkit.testing.uncached.uncached`, which keeps the inputs in place of the keys and
computes everything anew. The actions are the same to rounding; what differs is the work. With one
exception, and it is no mistake: Efficient-WAM also keeps keys of roles that are not closed, those
of a video that attended to the actions of two steps ago. Such a cache is an approximation, and here
one sees its size.

Images, actions and steps are as published, the networks are tiny, with random weights: what to look
at is the ratio. `wamkit compare` counts at the published sizes.

    python examples/03_cache.py --out figures     # writes figures/cache.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import wamkit
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.files.plots import bars, style, write
from wamkit.interfaces.types import ModelInputs, ModelOutput
from wamkit.policy.cost import Counter
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import observation
from wamkit.testing.uncached import uncached

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
def act(policy: wamkit.Policy, inputs: ModelInputs, *, cached: bool) -> Acted:
    """One chunk, by the paradigm's own loop, with or without a KV cache."""
    passes = 0

    def counting(*given: Any, **more: Any) -> ModelOutput:
        nonlocal passes
        passes += 1
        return policy.model(*given, **more)

    # A paradigm is given the network as one function, and cannot tell which of the two it is.
    model = counting if cached else uncached(counting)
    with Counter() as counter:
        rng = torch.Generator().manual_seed(0)
        out = policy.paradigm.act(model, inputs, policy.schedules, rng)
    return Acted(out.action, passes, counter.operations)


def small(spec: PolicySpec, *, quick: bool) -> PolicySpec:
    """The same composition with tiny networks; unless `quick`, with images of the real size."""
    tiny, _ = spec.model_copy(update={"dtype": "float32"}).tiny()
    return tiny if quick else tiny.model_copy(update={"cameras": spec.cameras}).fitted()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of systems, and draw it."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(), help="folder for cache.svg")
    options.add_argument("--quick", action="store_true", help="two systems, small images")
    given = options.parse_args(arguments)
    rng = torch.Generator().manual_seed(0)
    systems = list(SYSTEMS.items())[: 2 if given.quick else None]
    series: dict[str, dict[str, float]] = {"GFLOP with cache": {}, "GFLOP without": {}}

    print("with, without cache:  actions apart         passes      GFLOP a chunk   saves")
    for title, name in systems:
        policy = wamkit.build(small(parse(read(HERE / f"{name}.toml"), name), quick=given.quick))
        for weight in policy.parameters():  # some are zero at first, and would hide a difference
            weight.data += 0.1 * torch.randn(weight.shape, generator=rng)
        seen = observation(policy.spec, batch=1, frames=policy.spec.video.num_observed)
        kept = act(policy, inference_inputs(policy, seen), cached=True)
        anew = act(policy, inference_inputs(policy, seen), cached=False)
        gap = float((kept.action - anew.action).abs().max() / kept.action.abs().max())
        giga = [acted.operations / 1e9 for acted in (kept, anew)]
        row = f"{title:16} {gap:18.1e} {kept.passes:7}, {anew.passes:5}"
        print(f"{row} {giga[0]:10.3g}, {giga[1]:6.3g} {giga[1] / giga[0]:6.1f}x")
        for measure, value in zip(series, giga, strict=True):
            series[measure][title] = value
    print("apart: largest difference as a share of the largest action; 1e-7 is float32's rounding")
    print("passes are about as many; with a cache most of them are those of a few action tokens")
    with style():
        print(f"wrote {write(given.out / 'cache.svg', bars(series))}")


if __name__ == "__main__":
    main()

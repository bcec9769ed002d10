"""What one learns: an action head of one's own is two small classes, and fits every paradigm.

The head below reads the last layer of any backbone. It knows of no schedule, cache or visibility,
so it acts and learns in every paradigm but those in which the video attends to it: these refuse it.

    python examples/07_your_own_head.py    # for a project to publish: wamkit new action_head NAME
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wamkit.testing
from wamkit.config.parts import ActionHeadConfig, HeadContext, Part
from wamkit.engine.layers import Embedder, sinusoid
from wamkit.interfaces import ReaderHead
from wamkit.interfaces.types import TokenGroup
from wamkit.testing.fixtures import batch_of, compose, observation


class Glimpse(ActionHeadConfig):
    """On paper: the keys of the [action_head] table, and how many tokens there will be."""

    exposes_tokens = False  # it has no tokens that the video could attend to
    name: Literal["glimpse"] = "glimpse"
    width: int = 64  # of a token; a multiple of 8

    def tokens(self, sizes: HeadContext) -> dict[str, int]:
        counts = {p: sizes.chunk if p == "action" else 1 for p in sizes.predicts}
        return counts | ({"state": 1} if sizes.state else {})

    def build(self, sizes: HeadContext) -> nn.Module:
        return GlimpseHead(self.width, sizes)


class GlimpseHead(ReaderHead):
    """In metal: each vector's token looks once at the last layer, then a perceptron decides."""

    def __init__(self, width: int, sizes: HeadContext) -> None:
        super().__init__()
        self.width, self.layers = width, (sizes.traits.depth - 1,)  # the layers it wants to read
        dim, given = sizes.token_dim, (*sizes.predicts, *(("state",) if sizes.state else ()))
        self.enter = nn.ModuleDict({p: nn.Linear(dim(p), width) for p in given})
        self.leave = nn.ModuleDict({p: nn.Linear(width, dim(p)) for p in sizes.predicts})
        self.level = Embedder(width, width, nn.SiLU())
        self.frames = nn.Linear(sizes.traits.width, width)
        self.look = nn.MultiheadAttention(width, 8, batch_first=True)
        self.decide = Embedder(width, width, nn.SiLU())

    # wamkit decides how often these three run: once an observation, a schedule, a layout of tokens.
    def encode_hidden(self, hidden: Sequence[Tensor], mask: Tensor | None, text: Any) -> Any:
        return self.frames(hidden[0]), mask if mask is None or mask.is_floating_point() else ~mask

    def embed_levels(self, sigmas: Tensor, video: Tensor) -> Tensor:
        return self.level(sinusoid(1000 * sigmas, self.width))  # [R, width]; 0 is data, 1 is noise

    def embed_layout(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor:
        times = [time for group in groups for time in group.times]  # which action of the chunk
        return sinusoid(torch.tensor(times, device=device), self.width)  # [N, width]

    def read(
        self, inputs: Any, groups: Any, memory: Any, levels: Tensor, layout: Tensor, call: Any
    ) -> dict[str, Tensor]:  # at every step: velocities [B, N, A] by modality
        frames, padding = memory
        x = torch.cat([self.enter[g.modality](g.x) for g in groups], 1) + levels + layout
        sights = torch.cat([frames, x], 1)  # the video, and each other
        padding = None if padding is None else F.pad(padding, (0, x.shape[1]))
        x = x + self.look(x, sights, sights, padding, need_weights=False)[0]
        x = x + self.decide(F.layer_norm(x, x.shape[-1:]))
        rows = zip(groups, x.split([len(group.roles) for group in groups], 1), strict=True)
        found = {group.modality: row for group, row in rows}
        return {part: leave(found[part]) for part, leave in self.leave.items() if part in found}


@wamkit.hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """An installed plugin has this behind its entry point; here this very file is the plugin."""
    add(Glimpse)


def main(arguments: Sequence[str] | None = None) -> None:
    """Register the head, use it in two paradigms, and hold it to the contract."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="two training steps")
    steps = 2 if options.parse_args(arguments).quick else 60
    wamkit.registry().plug(sys.modules[__name__], "glimpse", "this file")
    spec = compose(Glimpse())  # a tiny spec around it, every other part the first that fits
    for name in ("single_pass", "idm"):
        policy = wamkit.build({**spec.dump(), "paradigm": {"name": name}})
        batch, losses = batch_of(policy.spec, size=8), []
        optimizer = torch.optim.Adam(policy.train().parameters(), 3e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            losses.append(policy.loss(batch, seed=0).total)  # can it learn one batch by heart?
            losses[-1].backward()
            optimizer.step()
        shape = list(policy.eval().act(observation(policy.spec), seed=0).values.shape)
        print(f"{name:12} acts {shape}, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    mutual = {"name": "joint", "attends": "mutual"}  # here the video would have to attend to it
    for conflict in wamkit.check({**spec.dump(), "paradigm": mutual}):
        print(f"joint, mutual: refused. {conflict}")
    # What a test file of two lines runs: `from wamkit.testing import *` and `PARTS = [Glimpse()]`.
    for check in wamkit.testing.CHECKS["policy"]:
        with TemporaryDirectory() as folder:
            check(spec, Path(folder))
        print("contract:", check.__name__.replace("_", " "))


if __name__ == "__main__":
    main()

"""What one learns: an action head of one's own is two small classes, and fits every paradigm.

The head below reads the last layer of any backbone. It knows of no schedule, cache or visibility,
so it acts and learns in every paradigm but those in which the video must hear it: these refuse it.

    python examples/07_your_own_head.py    # for a project to publish: wamkit new action_head NAME
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wamkit.testing
from wamkit.config.parts import ActionHeadConfig, Part, Sizes
from wamkit.engine.layers import Embedder, sinusoid
from wamkit.interfaces import ReaderHead
from wamkit.interfaces.types import Scene
from wamkit.testing.fixtures import batch_of, compose, observation


class Glimpse(ActionHeadConfig):
    """On paper: the keys of the [action_head] table, and how many tokens there will be."""

    heard = False  # it has no tokens that the video could look at
    name: Literal["glimpse"] = "glimpse"
    width: int = 64  # of a token; a multiple of 8

    def tokens(self, sizes: Sizes) -> dict[str, int]:
        counts = {p: sizes.chunk if p == "action" else 1 for p in sizes.predicts}
        return counts | ({"state": 1} if sizes.state else {})

    def build(self, sizes: Sizes) -> nn.Module:
        return GlimpseHead(self.width, sizes)


class GlimpseHead(ReaderHead):
    """In metal: each number's token looks once at the last layer, then a perceptron decides."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        self.width, self.layers = width, (sizes.traits.depth - 1,)  # the layers it wants to read
        given = (*sizes.predicts, *(("state",) if sizes.state else ()))
        self.enter = nn.ModuleDict({p: nn.Linear(sizes.numbers(p), width) for p in given})
        self.leave = nn.ModuleDict({p: nn.Linear(width, sizes.numbers(p)) for p in sizes.predicts})
        self.level = Embedder(width, width, nn.SiLU())
        self.shown = nn.Linear(sizes.traits.width, width)
        self.look = nn.MultiheadAttention(width, 8, batch_first=True)
        self.decide = Embedder(width, width, nn.SiLU())

    def read(
        self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None, level: Tensor
    ) -> dict[str, Tensor]:
        """Velocities [B, N, A] by part, from one layer's hidden states [B, S, D]."""
        pieces = scene.pieces()  # the state, the noisy actions, and what else is to be predicted
        tokens = [
            self.enter[p.part](p.x)
            + self.level(sinusoid(1000 * p.sigma, self.width))  # how noisy it is: 0 data, 1 noise
            + sinusoid(p.times, self.width)  # which action of the chunk it is
            for p in pieces
        ]
        x = torch.cat(tokens, 1)  # [B, N, width]
        sights = torch.cat([self.shown(hidden[0]), x], 1)  # the video, and each other
        if valid is not None:  # words may be among the tokens of the video, and some be padding
            scores = valid if valid.is_floating_point() else valid.float().log()  # 0, or -infinity
            valid = F.pad(scores, (0, x.shape[1]))
        x = x + self.look(x, sights, sights, valid, need_weights=False)[0]
        x = x + self.decide(F.layer_norm(x, x.shape[-1:]))
        rows = x.split([p.x.shape[1] for p in pieces], 1)
        found = {p.part: row for p, row in zip(pieces, rows, strict=True)}
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

    mutual = {"name": "joint", "attends": "mutual"}  # here the video would have to hear it
    for conflict in wamkit.check({**spec.dump(), "paradigm": mutual}):
        print(f"joint, mutual: refused. {conflict}")

    # What a test file of two lines runs: `from wamkit.testing import *` and `PARTS = [Glimpse()]`.
    for check in wamkit.testing.CHECKS["policy"]:
        with TemporaryDirectory() as folder:
            check(spec, Path(folder))
        print("contract:", check.__name__.replace("_", " "))


if __name__ == "__main__":
    main()

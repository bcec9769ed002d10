"""What one learns: a transformer block opens at its self-attention, and two streams meet there.

A video diffusion model is a stack of blocks. wamkit opens each of them in two:

    project   tokens -> queries, keys, values, and whatever is needed afterwards
    absorb    what attention found -> the next tokens

Attention itself belongs to neither, and that gap is where a policy is built: put the tokens of an
action expert beside those of the video, let all of them attend together, and this is a
Mixture-of-Transformers (arXiv 2411.04996), as in Fast-WAM (arXiv 2603.16666).

    python examples/01_one_block.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import wamkit
from wamkit.config.spec import parse_part
from wamkit.engine.attention import Stream, run, sdpa
from wamkit.engine.layers import latent_times
from wamkit.interfaces import VideoBackbone, stream_of
from wamkit.interfaces.types import Frames, Segment, Text

# Letters: B batch, T latent frames, C latent channels, h w latent height and width, S tokens,
# D width of a token, H heads, E size of a head, L words.


def scene(backbone: VideoBackbone, frames: int, size: int) -> tuple[Frames, Text]:
    """A clip of noise, whose first frame is known and whose others are not, and five words."""
    rng = torch.Generator().manual_seed(0)
    t = backbone.traits
    z = torch.randn(1, t.latent_channels, frames, size, size, generator=rng)  # [B, C, T, h, w]
    roles = ("context",) + ("target",) * (frames - 1)
    sigma = torch.tensor([[0.0] + [0.7] * (frames - 1)])  # [B, T]: 0 is data, 1 is noise
    words = torch.randn(1, 5, t.text_width, generator=rng)  # [B, L, text width]
    return Frames(z, roles, torch.arange(float(frames)), sigma), Text(words)


def by_hand(backbone: VideoBackbone, clip: Frames, text: Text) -> Tensor:
    """A whole pass of the network, spelled out: everything sees everything, as in pretraining."""
    x, _, cond = backbone.embed(clip, text)  # [B, S, D]; cond: noise levels, places, words
    for block in backbone.blocks:
        (q, k, v), rest = block.project(x, cond)  # [B, H, S, E] each
        attended = sdpa(q, k, v).transpose(1, 2).flatten(2)  # [B, S, H * E]
        x = block.absorb(attended, rest, cond)  # [B, S, D]
    return backbone.unembed(x, cond)  # velocity [B, C, T, h, w]


def meet(one: Stream, two: Stream) -> None:
    """Two streams, one attention a layer: Mixture-of-Transformers in ten lines."""
    for first, second in zip(one.blocks, two.blocks, strict=True):
        assert first is not None and second is not None  # a block is None where a stream rests
        mine, rest_one = first.project(one.x, one.cond)
        theirs, rest_two = second.project(two.x, two.cond)
        q, k, v = (torch.cat(pair, 2) for pair in zip(mine, theirs, strict=True))
        together = sdpa(q, k, v).transpose(1, 2).flatten(2)
        here, there = together.split([one.x.shape[1], two.x.shape[1]], 1)
        one.x = first.absorb(here, rest_one, one.cond)
        two.x = second.absorb(there, rest_two, two.cond)


def actions_beside(backbone: VideoBackbone, expert: Any, count: int) -> Stream:
    """`count` tokens of an action expert: narrower than the video's, with as many, equal heads."""
    width = 32
    x = torch.randn(1, count, width, generator=torch.Generator().manual_seed(1))
    at = torch.full((count, 3), -1.0)  # time, row and column of each token; they are on no picture
    at[:, 0] = latent_times(torch.arange(count), count, (1, 2))
    level = torch.full((1, count), 0.7)
    words = Text(torch.zeros(1, 5, backbone.traits.text_width))
    cond = expert.place(level, at, words)
    return Stream(list(expert.blocks), x, (Segment("action", count),), cond)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Compare what is written here with what wamkit does."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a clip of two small frames")
    quick = options.parse_args(arguments).quick
    frames, size = (2, 4) if quick else (3, 16)

    spec: Any = parse_part("backbone", {"name": "wan", "variant": "tiny"})  # Wan 2.2, toy size
    backbone = wamkit.load_part("backbone", spec).eval()
    clip, text = scene(backbone, frames, size)
    whole = wamkit.denoise(backbone, clip, text)
    difference = (by_hand(backbone, clip, text) - whole).abs().max()
    print(f"wan: {len(backbone.blocks)} blocks, velocity {list(whole.shape)}")
    print(f"  project, attention, absorb by hand against wamkit.denoise: {difference:.1e} apart")

    # The expert is a narrower copy of the same blocks. Its heads are those of the video, and that
    # is all that two streams have to share.
    expert = spec.expert(width=32, feed_forward=64).eval()
    ours = stream_of(backbone, clip, text), actions_beside(backbone, expert, 6)
    meet(*ours)
    theirs = stream_of(backbone, clip, text), actions_beside(backbone, expert, 6)
    everyone = {"context", "target", "action"}
    run(theirs, dict.fromkeys(everyone, everyone))  # wamkit's engine, the same by a table of names
    print("two streams in one attention, by hand against wamkit.engine.attention.run")
    for name, mine, engines in zip(("video", "action"), ours, theirs, strict=True):
        gap = (mine.x - engines.x).abs().max()
        print(f"  {name:6} {mine.x.shape[1]:4} tokens of width {mine.x.shape[2]}: {gap:.1e} apart")


if __name__ == "__main__":
    main()

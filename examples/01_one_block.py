"""What one learns: a transformer block opens at its self-attention, and two streams meet there.

A video diffusion model is a stack of blocks. wamkit opens each of them in two:

    pre_attention    tokens -> queries, keys, values, and what is needed afterwards
    post_attention   attention output -> the next tokens

Attention itself belongs to neither, and that gap is where a policy is built: put the tokens of an
action expert next to those of the video, let all of them attend together, and this is a
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
from wamkit.config.visibility import everyone
from wamkit.engine.attention import Segment, Stream, attention
from wamkit.engine.conditioning import precompute_modulation, precompute_text_kv
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import Backbone, Stack
from wamkit.interfaces.streams import Video, embed_video
from wamkit.interfaces.types import Frames, Text

# Letters: B batch, T latent frames, C latent channels, h w latent height and width, S tokens,
# D width of a token, H heads, E size of a head, L text tokens.


def inputs(backbone: Backbone, frames: int, size: int) -> tuple[Frames, Text]:
    """A clip of noise, whose first frame is known and whose others are not, and a prompt."""
    rng = torch.Generator().manual_seed(0)
    t = backbone.traits
    z = torch.randn(1, t.latent_channels, frames, size, size, generator=rng)  # [B, C, T, h, w]
    roles = ("context",) + ("target",) * (frames - 1)
    sigma = torch.tensor([[0.0] + [0.7] * (frames - 1)])  # [B, T]: 0 is data, 1 is noise
    tokens = torch.randn(1, 5, t.text_width, generator=rng)  # [B, L, text width]
    return Frames(z, roles, tuple(map(float, range(frames))), sigma), Text(tokens)


def layers(stream: Stream) -> list[tuple[Any, Any, Any]]:
    """Each block, its shifts, scales and gates, and its keys and values of the prompt."""
    rows = stream.modulation.gather(stream.level_index)  # type: ignore[union-attr]
    return list(zip(stream.blocks, rows, stream.text_kv or (), strict=True))


def by_hand(backbone: Backbone, video: Video) -> Tensor:
    """A whole pass of the network, spelled out: everything sees everything, as in pretraining."""
    x, rotary = video.frames.tokens, video.frames.rotary  # [B, S, D]
    for block, modulation, text_kv in layers(video.frames):
        (q, k, v), carry = block.pre_attention(x, modulation, rotary)  # [B, H, S, E] each
        attended = attention(q, k, v).transpose(1, 2).flatten(2)  # [B, S, H * E]
        x = block.post_attention(attended, carry, modulation, text_kv)  # [B, S, D]
    return backbone.final_layer(x, video.modulation, video.clip)  # velocity [B, C, T, h, w]


def meet(one: Stream, two: Stream) -> tuple[Tensor, Tensor]:
    """Two streams, one attention a layer: Mixture-of-Transformers in ten lines."""
    x, y = one.tokens, two.tokens
    for (first, rows, text), (second, rows_2, text_2) in zip(layers(one), layers(two), strict=True):
        mine, carry = first.pre_attention(x, rows, one.rotary)
        theirs, carry_2 = second.pre_attention(y, rows_2, two.rotary)
        q, k, v = (torch.cat(pair, 2) for pair in zip(mine, theirs, strict=True))
        together = attention(q, k, v).transpose(1, 2).flatten(2)
        here, there = together.split([x.shape[1], y.shape[1]], 1)
        x = first.post_attention(here, carry, rows, text)
        y = second.post_attention(there, carry_2, rows_2, text_2)
    return x, y


def action_stream(expert: Stack, text: Text, width: int, count: int) -> Stream:
    """`count` tokens of an action expert: narrower than the video's, with as many, equal heads."""
    x = torch.randn(1, count, width, generator=torch.Generator().manual_seed(1))
    positions = torch.full((count, 3), -1.0).double()  # time, row, column; they are on no image
    positions[:, 0] = torch.arange(1, count + 1) / count
    modulation = precompute_modulation(expert.blocks, expert.embed_sigma(torch.tensor([0.7])))
    level_index = torch.zeros(1, 1, dtype=torch.long)  # all tokens are at the first level
    text_kv = precompute_text_kv(expert.blocks, expert.embed_text(text))
    rotary, segments = expert.embed_positions(positions), (Segment("action", count),)
    return Stream(tuple(expert.blocks), x, segments, level_index, modulation, rotary, text_kv)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Compare what is written here with what wamkit does."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a clip of two small frames")
    frames, size = (2, 4) if options.parse_args(arguments).quick else (3, 16)

    spec: Any = parse_part("backbone", {"name": "wan", "variant": "tiny"})  # Wan 2.2, toy size
    backbone = wamkit.load_part("backbone", spec).eval()
    clip, text = inputs(backbone, frames, size)
    runner, whole = PassRunner(), wamkit.denoise(backbone, clip, text)
    video = embed_video(runner, backbone, clip, text)
    gap = (by_hand(backbone, video) - whole).abs().max()
    print(f"wan: {len(backbone.blocks)} blocks, velocity {list(whole.shape)}")
    print(f"  block by block, by hand against wamkit.denoise: {gap:.1e} apart")

    # The expert is a narrower copy of the same blocks. Its heads are those of the video, and that
    # is all that two streams have to share.
    streams = video.frames, action_stream(spec.expert(32, 64).eval(), text, 32, 6)
    sees = everyone(("context", "target", "action"))  # a table of roles, from which
    engine, _ = runner.run(streams, sees)  # wamkit's engine does the same
    print("two streams in one attention, by hand against wamkit's engine")
    for name, mine, theirs in zip(("video", "action"), meet(*streams), engine, strict=True):
        gap = (mine - theirs).abs().max()
        print(f"  {name:6} {mine.shape[1]:4} tokens of width {mine.shape[2]}: {gap:.1e} apart")


if __name__ == "__main__":
    main()

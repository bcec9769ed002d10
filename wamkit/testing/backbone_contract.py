"""Contract tests of a backbone's stack: other tokens in it, a narrower copy of it, a part of it.

A check takes a configuration that builds in a second. `wamkit.testing` runs STACK on every backbone
at its tiny size; a plugin may try more of its variants, and state the positions of its tokens:

    @pytest.mark.parametrize("check", STACK)
    def test_other_tokens_pass_the_stack(check):
        check(MyBackbone(...))

    def test_tokens_placed_by_hand_give_the_numbers_of_frames():
        placed_by_hand(MyBackbone(...))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..config.parts import BackboneConfig
from ..config.visibility import everyone
from ..engine.attention import Segment, Stream
from ..engine.levels import LevelTable
from ..engine.passes import PassRunner
from ..errors import WamkitError
from ..interfaces.streams import embed_video
from ..interfaces.types import Frames, Text
from .fixtures import random_frames, randomize_weights
from .tolerance import ROUNDING, same_values

__all__ = ["STACK", "grid", "placed_by_hand"]

Places = Callable[[Tensor, int, int], Tensor]
"""Times [T] of frames, rows and columns of their tokens -> the places [S, 3] of the tokens."""


def grid(times: Tensor, rows: int, columns: int) -> Tensor:
    """Places [S, 3] of the tokens of frames: time, row and column."""
    return torch.cartesian_prod(times, torch.arange(float(rows)), torch.arange(float(columns)))


@torch.no_grad()
def placed_by_hand(config: BackboneConfig, places: Places = grid) -> None:
    """Tokens at hand-made positions give the result of the frames.

    `places` gives the positions of frame tokens, if the family has its own.
    """
    backbone, frames, text = _inputs(config)
    runner = PassRunner()
    whole = embed_video(runner, backbone, frames, text).frames
    _, p, q = config.traits.patch_size
    times = torch.tensor(frames.times[1:])
    at = places(times, frames.z.shape[3] // p, frames.z.shape[4] // q)
    each = len(at) // (len(frames.roles) - 1)
    first = embed_video(runner, backbone, frames.only("context"), text)
    tokens = whole.tokens[:, -len(at) :]
    levels = frames.sigma[:, 1:].repeat_interleave(each, 1)
    second = _stream(runner, backbone, text, tokens, levels, at, (Segment("action", len(at)),))
    expected = _run(runner, backbone, *embed_video(runner, backbone, frames, text).streams)[-1]
    *_, one, two = _run(runner, backbone, *first.streams, second)
    same_values(torch.cat([one, two], 1), expected)


@torch.no_grad()
def feels_its_own_level_and_place_only(config: BackboneConfig) -> None:
    """The level and position of a token affect no other token."""
    backbone, frames, text = _inputs(config)
    runner = PassRunner()
    even = embed_video(runner, backbone, frames.at(0.5, "context", "target"), text).frames
    x, at = even.tokens[:, -8:], grid(torch.tensor(frames.times[1:]), 2, 2)
    sigma = torch.linspace(0.1, 0.8, 16).view(2, 8)
    louder, elsewhere = sigma.clone(), at.clone()
    louder[:, 3] = 1
    elsewhere[5] = torch.tensor([-1.0, 0.5, 7.0])
    segments, rows = (Segment("action", 8),), even.modulation.gather(even.level_index)  # type: ignore[union-attr]
    made = [
        _stream(runner, backbone, text, x, levels, places, segments)
        for levels, places in ((sigma, at), (louder, at), (sigma, elsewhere))
    ]
    for layer, block in enumerate(backbone.blocks):
        # Positions may be in the tokens already; else tokens that are alike differ by their keys.
        alike = even.tokens[:, -1:].expand_as(even.tokens)
        keys = block.pre_attention(alike, rows[layer], even.rotary)[0].k[:, :, -8:]
        turns = bool(_changed_tokens(keys, keys[:, :, -1:].expand_as(keys)))
        its = [s.modulation.gather(s.level_index)[layer] for s in made]  # type: ignore[union-attr]
        halves = [
            block.pre_attention(s.tokens, row, s.rotary) for s, row in zip(made, its, strict=True)
        ]
        one, two, three = (qkv for qkv, _ in halves)
        if config.traits.imagines and config.traits.sigma_per_frame:
            followed = _changed_tokens(one.k, two.k)
            if not followed:  # a block may read the level after self-attention
                attended = x.new_zeros(2, 8, config.traits.num_heads * config.traits.head_dim)
                first, second = (
                    block.post_attention(attended, halves[i][1], its[i], made[i].text_kv[layer])  # type: ignore[index]
                    for i in (0, 1)
                )
                followed = _changed_tokens(first[:, None], second[:, None])
            assert followed == [3]
        assert _changed_tokens(one.k, three.k) == ([5] if turns else [])
        assert torch.equal(one.v, three.v)


def has_an_expert_that_attends_and_learns(config: BackboneConfig) -> None:
    """A narrower copy attends together with the frames, and each of its weights has a gradient."""
    if not config.traits.experts:
        return
    backbone, frames, text = _inputs(config)
    runner, expert = PassRunner(), randomize_weights(config.expert(20, 28))
    assert len(expert.blocks) == config.traits.depth
    x = torch.randn(2, 4, 20, generator=torch.Generator().manual_seed(3))
    at = torch.tensor([[-1.0, -1, -1], [0, -1, -1], [0.5, -1, -1], [1, -1, -1]])
    sigma = torch.tensor([[0.0, 0.8, 0.8, 0.8], [0.0, 0.3, 0.3, 0.3]])
    segments = (Segment("state", 1), Segment("action", 3))
    action = _stream(runner, expert, text, x, sigma, at, segments)
    video = embed_video(runner, backbone, frames, text)
    found = _run(runner, backbone, *video.streams, action)
    assert found[-1].shape == x.shape
    level = expert.embed_level(torch.tensor([0.0, 0.8, 0.3]))
    assert (level is not None) == config.traits.level_vector, "traits.level_vector is not true"
    assert level is None or level.shape == (3, 20)
    sum(tokens.square().mean() for tokens in found[-2:]).backward()  # type: ignore[union-attr]
    dead = [n for n, p in expert.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead, f"no gradient reaches {', '.join(dead)}"


def can_be_cut_to_fewer_blocks(config: BackboneConfig) -> None:
    """`resized` keeps other settings, drops the weights, and builds."""
    traits = config.traits
    if not traits.mlp_dim:
        return
    group, layers = traits.num_heads // traits.num_kv_heads, range(0, traits.depth, 2)
    num_heads, units = max(group, traits.num_heads - group), max(1, traits.mlp_dim // 2)
    small = config.model_copy(update={"weights": "/models/large"}).resized(layers, num_heads, units)
    assert small.weights is None
    assert small.traits == traits.model_copy(
        update={
            "depth": len(layers),
            "num_heads": num_heads,
            "num_kv_heads": num_heads // group,
            "width": num_heads * traits.head_dim,
            "mlp_dim": units,
        }
    )
    model, frames, text = _inputs(small)
    assert model.traits == small.traits and len(model.blocks) == len(layers)
    tokens = embed_video(PassRunner(), model, frames, text).frames.tokens
    assert tokens.shape[-1] == small.traits.width


def refuses_blocks_and_heads_it_does_not_have(config: BackboneConfig) -> None:
    """`resized` refuses sizes with the errors of `wamkit.config.parts.expect_resizable`."""
    traits = config.traits
    if not traits.mlp_dim:
        return
    depth, group = traits.depth, traits.num_heads // traits.num_kv_heads
    stack = f"expected places in a stack of {depth}, ascending"
    wrong = [([0, depth], group, f"found layers [0, {depth}], {stack}")]
    for num_heads in {0, group - 1}:
        found = f"found {num_heads} heads and a feed-forward of 40"
        wrong += [([0], num_heads, f"{found}, expected a multiple of {group} heads")]
    for layers, num_heads, message in wrong:
        try:
            config.resized(layers, num_heads, 40)
        except WamkitError as error:
            assert message in error.what, error.what
        else:
            raise AssertionError(f"layers {layers} with {num_heads} heads were accepted")


def _inputs(config: BackboneConfig) -> tuple[Any, Frames, Text]:
    """A backbone with every weight moved, three frames with separate levels, and text."""
    torch.manual_seed(0)
    _, p, q = config.traits.patch_size
    frames, text = random_frames(config.traits, (2 * p, 3 * q))
    levels = torch.tensor([[0.0, 0.9, 0.4], [0.2, 0.7, 0.3]])
    frames = replace(frames, times=(0.0, 1.0, 2.5), levels=levels)
    return randomize_weights(config.build()).eval(), frames, text


def _stream(
    runner: PassRunner,
    stack: Any,
    text: Text,
    tokens: Tensor,
    sigma: Tensor,
    at: Tensor,
    segments: tuple[Segment, ...],
) -> Stream:
    """Tokens [B, S, D] of no frame at levels [B, S] and places [S, 3], as a stream of a stack."""
    levels = LevelTable.of([(sigma, sigma.shape[1])], len(tokens), tokens.device)
    blocks = tuple(stack.blocks)
    pooled = text.cond_embeds[:, 0] if stack.reads_pooled and text.cond_embeds is not None else None
    modulation, index = runner.modulation(stack, blocks, "blocks", levels, pooled, text)
    cond, text_kv = None, None
    traits = getattr(stack, "traits", None)
    if traits is None or traits.text != "stream":
        cond, text_kv = runner.text(stack, blocks, text)
    rotary = stack.embed_positions(at.double())
    return Stream(blocks, tokens, segments, index, modulation, rotary, text_kv, cond)


def _run(runner: PassRunner, backbone: Any, *streams: Stream) -> list[Tensor]:
    """Everything attends to everything."""
    roles = {segment.role for stream in streams for segment in stream.segments}
    return runner.run(streams, everyone(roles), attend=backbone.attend)[0]


def _changed_tokens(one: Tensor, two: Tensor) -> list[int]:
    """The tokens whose keys [B, K, S, E] differ, by more than rounding."""
    least = ROUNDING[one.dtype] * one.abs().max()
    return ((one - two).abs().amax((0, 1, 3)) > least).nonzero().flatten().tolist()


STACK: tuple[Callable[[BackboneConfig], None], ...] = (
    feels_its_own_level_and_place_only,
    has_an_expert_that_attends_and_learns,
    can_be_cut_to_fewer_blocks,
    refuses_blocks_and_heads_it_does_not_have,
)
"""The checks that hold for every backbone."""

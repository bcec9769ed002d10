"""Fixtures for tests of parts: tiny specs, random inputs, and an uncached reference."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..config.compositions import around, compose, default
from ..config.parts import Part, Traits
from ..config.registry import registry
from ..config.spec import PolicySpec, override, parse
from ..config.visibility import LayerVisibility, Visibility
from ..engine.attention import Segment, Stream
from ..engine.kv_cache import KVCache
from ..engine.passes import PassRunner
from ..interfaces import denoise
from ..interfaces.streams import embed_video, pass_video
from ..interfaces.types import (
    DenoisingTargets,
    Frames,
    ModelInputs,
    ModelOutput,
    NoisyVectors,
    ParadigmOutput,
    Text,
    counted,
)
from ..policy.observation import random_batch as batch_of
from ..policy.observation import random_observation as observation
from ..policy.preprocessing import inference_inputs, training_inputs

if TYPE_CHECKING:
    from ..policy.policy import Policy

__all__ = [
    "around",
    "batch_of",
    "compose",
    "default",
    "full_inputs",
    "noised_sample",
    "observation",
    "predict_frames",
    "random_frames",
    "randomize_weights",
    "run_dense",
    "run_head",
    "run_paradigm",
    "spec_with",
    "with_overrides",
]

M = TypeVar("M", bound=nn.Module)


def spec_with(*parts: Part, **names: str) -> PolicySpec:
    """`compose` of parts and of registered ones, by kind: `composed(Mine(), backbone="theirs")`.

    Raises AssertionError if nothing fits them, and WamkitError for unknown names.
    """
    if not parts:
        return _spec_by_names(tuple(names.items()))
    return compose(*(default(registry().get(kind, name)) for kind, name in names.items()), *parts)


@cache
def _spec_by_names(names: tuple[tuple[str, str], ...]) -> PolicySpec:
    return compose(*(default(registry().get(kind, name)) for kind, name in names))


def with_overrides(spec: PolicySpec, *changes: str) -> PolicySpec:
    """The spec with each `path.to.key=value` set, as by `--set` on the command line."""
    return parse(override(spec.dump(), changes))


def run_paradigm(
    policy: Policy, model: Any = None, *, seed: int = 3, **act_options: Any
) -> ParadigmOutput:
    """Run a policy's paradigm on a random observation, with `model` or the policy's own."""
    inputs, rng = (
        inference_inputs(policy, observation(policy.spec)),
        torch.Generator().manual_seed(seed),
    )
    with torch.no_grad():
        return policy.paradigm.act(
            model or policy.model, inputs, policy.schedules, rng, **act_options
        )


def noised_sample(
    policy: Policy, *, seed: int = 1, size: int = 2
) -> tuple[ModelInputs, ModelInputs, DenoisingTargets]:
    """Random training samples of a policy: clean, noisy, and the targets."""
    inputs = training_inputs(policy, batch_of(policy.spec, size=size))
    rng = torch.Generator().manual_seed(seed)
    return (inputs, *policy.paradigm.add_noise(inputs, policy.schedules, rng))


def random_frames(traits: Traits, size: tuple[int, int], *, frames: int = 3) -> tuple[Frames, Text]:
    """Random frames of `size` latents and five text tokens for a backbone, for a batch of two.

    The first frame is a clean context, the others are targets at 0.75; the first sample has three
    valid text tokens. Conditioning latents and embeddings are added where the backbone takes them.
    """
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(2, traits.latent_channels, frames, *size, generator=rng)
    roles = ("context",) + ("target",) * (frames - 1)
    sigma = torch.full((2, frames), 0.75)
    sigma[:, 0] = 0
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[0, 3:] = False
    tokens, cond_latents, cond_embeds = (
        torch.randn(2, 5, traits.text_width, generator=rng),
        None,
        None,
    )
    if traits.cond_channels:
        cond_latents = torch.randn(2, traits.cond_channels, frames, *size, generator=rng)
    if traits.cond_embeds_width:
        cond_embeds = torch.randn(2, 1, traits.cond_embeds_width, generator=rng)
    clip = Frames(z, roles, counted(frames), sigma, cond_latents)
    return clip, Text(tokens, valid, cond_embeds)


def full_inputs(spec: PolicySpec) -> ModelInputs:
    """Random inputs for an action head, for a batch of two.

    They have a context frame, text, a state, and every modality of a head, each at levels of
    its own.
    """
    rng = torch.Generator().manual_seed(4)

    def noisy(tokens: int, size: int, *levels: float) -> NoisyVectors:
        return NoisyVectors(torch.randn(2, tokens, size, generator=rng), torch.tensor(levels))

    video, text = random_frames(spec.backbone.traits, spec.latent_size, frames=1)
    size = spec.state.size
    return ModelInputs(
        text,
        video,
        noisy(spec.actions.chunk_size, spec.actions.size, 0.2, 0.7),
        torch.randn(2, size, generator=rng),
        next_state=noisy(1, size, 0.3, 0.5),
        value=noisy(1, 1, 0.9, 0.1),
    )


def randomize_weights(model: M, *, seed: int = 2) -> M:
    """The same module with every weight moved, so that zero-initialized ones hide nothing."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            inputs = p[0].numel() if p.ndim else 1
            p.add_(torch.randn(p.shape, generator=rng) * 0.3 / max(1, inputs) ** 0.5)
    return model


def predict_frames(model: Any, video: Frames, text: Text, sees: Visibility | None = None) -> Tensor:
    """The velocity of frames; of a backbone that cannot imagine, its final tokens [B, S, D]."""
    if model.traits.imagines:
        return denoise(model, video, text, sees)
    runner = PassRunner()
    return pass_video(runner, model, embed_video(runner, model, video, text), sees)


def run_head(
    head: Any,
    backbone: Any,
    inputs: ModelInputs,
    sees: LayerVisibility,
    cache: KVCache | None = None,
    keep: Collection[str] = (),
) -> ModelOutput:
    """One forward pass of an action head over inputs before `prepare`; nothing is cached."""
    found = head.join(PassRunner(), backbone, head.prepare(inputs), sees, cache, keep)
    assert isinstance(found, ModelOutput)
    return found


def run_dense(streams: Sequence[Stream], sees: Visibility) -> list[Tensor]:
    """The engine's reference: one attention over all tokens of all streams under a boolean mask."""
    roles = [[s.role for s in st.segments for _ in range(s.length)] for st in streams]
    tokens = [stream.tokens for stream in streams]
    rows = [stream.modulation.gather(stream.level_index) for stream in streams]  # type: ignore[union-attr]
    for layer in range(len(streams[0].blocks)):
        here = [i for i, stream in enumerate(streams) if stream.blocks[layer] is not None]
        made = [
            streams[i].blocks[layer].pre_attention(tokens[i], rows[i][layer], streams[i].rotary)
            for i in here
        ]
        k, v = (torch.cat([qkv[part] for qkv, _ in made], 2) for part in (1, 2))
        names = [name for i in here for name in roles[i]]
        real = torch.cat([_ones(s, tokens[i]) for i in here for s in streams[i].segments], 1)
        for i, (qkv, carry) in zip(here, made, strict=True):
            mask = torch.tensor([[key in sees[query] for key in names] for query in roles[i]])
            mask = mask.to(real.device) & real[:, None, None, :]
            out = torch.nn.functional.scaled_dot_product_attention(
                qkv.q, k, v, attn_mask=mask, enable_gqa=qkv.q.shape[1] != k.shape[1]
            )
            text_kv = streams[i].text_kv
            tokens[i] = (
                streams[i]
                .blocks[layer]
                .post_attention(
                    out.transpose(1, 2).flatten(2),
                    carry,
                    rows[i][layer],
                    None if text_kv is None else text_kv[layer],
                )
            )
    return tokens


def _ones(segment: Segment, x: Tensor) -> Tensor:
    if segment.mask is not None:
        return segment.mask
    return torch.ones(x.shape[0], segment.length, dtype=torch.bool, device=x.device)

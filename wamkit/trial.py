"""What tests try a part with: a tiny spec around it, random inputs, and the engine's reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .attention import Stream
from .compositions import around, compose, default
from .observation import Batch, Observation
from .spec import PolicySpec
from .types import Segment
from .visibility import Visibility

__all__ = ["around", "batch_of", "compose", "default", "observation", "run_dense"]


def observation(spec: PolicySpec, *, batch: int = 2, frames: int = 1, seed: int = 0) -> Observation:
    """Random pictures and state for the cameras of a spec."""
    rng = torch.Generator().manual_seed(seed)
    images = {
        view.name: torch.randint(
            0, 256, (batch, frames, 3, 24, 32), generator=rng, dtype=torch.uint8
        )
        for view in spec.cameras.views
    }
    state = torch.randn(batch, spec.state.size, generator=rng) if spec.state.size else None
    return Observation(images=images, prompt=[f"task {i}" for i in range(batch)], state=state)


def batch_of(spec: PolicySpec, *, size: int = 2, seed: int = 0) -> Batch:
    """Random training samples for a spec."""
    rng = torch.Generator().manual_seed(seed)
    actions = torch.rand(size, spec.steps, spec.actions.size, generator=rng) * 2 - 1
    return Batch(
        observation(spec, batch=size, frames=spec.pictures, seed=seed),
        actions,
        next_state=torch.randn(size, spec.state.size, generator=rng) if spec.state.size else None,
        value=torch.rand(size, generator=rng) * 2 - 1,
    )


def run_dense(streams: Sequence[Stream], sees: Visibility) -> None:
    """The engine's reference: one attention over all tokens of all streams under a boolean mask."""
    roles: list[list[str]] = [
        [s.role for s in st.segments for _ in range(s.length)] for st in streams
    ]
    for layer in range(len(streams[0].blocks)):
        shown: list[tuple[Stream, Any, Tensor, Any, list[str]]] = []
        keys, values, key_roles, valid = [], [], [], []
        for stream, names in zip(streams, roles, strict=True):
            block = stream.blocks[layer]
            if block is None:
                continue
            qkv, rest = block.project(stream.x, stream.cond)
            shown.append((stream, block, qkv.q, rest, names))
            keys.append(qkv.k)
            values.append(qkv.v)
            key_roles += names
            valid += [_ones(s, stream.x) for s in stream.segments]
        k, v, real = torch.cat(keys, 2), torch.cat(values, 2), torch.cat(valid, 1)
        for stream, block, q, rest, names in shown:
            mask = torch.tensor([[key in sees[query] for key in key_roles] for query in names])
            mask = mask.to(real.device) & real[:, None, None, :]
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1]
            )
            stream.x = block.absorb(out.transpose(1, 2).flatten(2), rest, stream.cond)


def _ones(segment: Segment, x: Tensor) -> Tensor:
    if segment.valid is not None:
        return segment.valid
    return torch.ones(x.shape[0], segment.length, dtype=torch.bool, device=x.device)

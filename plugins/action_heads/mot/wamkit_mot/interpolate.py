"""Start an action expert from a wider video transformer: interpolate every axis, keep the scale.

Fast-WAM (scripts/preprocess_action_dit_backbone.py): tensors with a counterpart of the same name
are copied if the shapes agree, otherwise resized axis by axis by linear interpolation; a matrix
whose input axis shrank is multiplied by sqrt(old / new), which keeps the size of its outputs.
Unlike there, axes that stack several pieces (the time projection, fused projections) are resized
piece by piece, so that they do not bleed into each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.errors import WamkitError
from wamkit.interfaces import Backbone

if TYPE_CHECKING:
    from .head import MotHead

FUSED = 3  # at most q, k and v stand before a fused feed-forward, which has at most two halves


class Units(NamedTuple):
    """The sizes that axes are made of, as (old, new)."""

    width: tuple[int, int]  # D
    inner: tuple[int, int]  # H * E, the same on both sides
    mlp_dim: tuple[int, int]

    def pieces(self, old: int, new: int) -> list[tuple[int, int]]:
        """Decompose an axis of size `old` that becomes one of size `new`."""
        for num_heads, hidden in product(range(FUSED, 0, -1), (1, 2)):
            parts = [self.inner] * num_heads + [self.mlp_dim] * hidden
            if (old, new) == tuple(sum(sizes) for sizes in zip(*parts, strict=True)):
                return parts
        for unit in (self.width, self.mlp_dim):
            count, left = divmod(old, unit[0])
            if count and not left and count * unit[1] == new:
                return [unit] * count
        return [(old, new)]


def interpolate_tensor(source: Tensor, shape: Sequence[int], units: Units) -> Tensor:
    """`source` interpolated to `shape`, piece by piece, in float32."""
    x = source.detach().float()
    for axis, (old, new) in enumerate(zip(source.shape, shape, strict=True)):
        if old != new:
            pieces = units.pieces(old, new)
            parts = x.movedim(axis, -1).split([size for size, _ in pieces], -1)
            y = [_resample(p, size) for p, (_, size) in zip(parts, pieces, strict=True)]
            x = torch.cat(y, -1).movedim(-1, axis)
    if source.ndim >= 2 and shape[-1] < source.shape[-1]:
        x = x * (source.shape[-1] / shape[-1]) ** 0.5
    return x


def _resample(x: Tensor, size: int) -> Tensor:
    """x [..., old] to [..., size]."""
    flat = x.reshape(-1, 1, x.shape[-1])
    flat = F.interpolate(flat, size, mode="linear", align_corners=True)
    return flat.reshape(*x.shape[:-1], size)


@torch.no_grad()
def copy_from_backbone(head: MotHead, backbone: Backbone) -> None:
    """Fill those of the expert's tensors that have a counterpart in the backbone.

    An expert's block takes from the backbone's block of its layer. Raises WamkitError if the
    backbone has no tensor of any name the expert knows.
    """
    traits, config = backbone.traits, head.config
    inner = traits.num_heads * traits.head_dim
    units = Units(
        (traits.width, config.width),
        (inner, inner),
        (traits.mlp_dim or traits.width, config.mlp_dim),
    )
    filled = 0
    for ours, theirs in _counterparts(head, backbone):
        if theirs.ndim == ours.ndim:
            ours.copy_(interpolate_tensor(theirs, ours.shape, units))
            filled += 1
    if not filled:
        raise WamkitError(
            "the action expert cannot start from this backbone: no weight has a name it knows "
            "(attn1.to_q, ffn.net.0.proj, ...)",
            'set action_head.block = "backbone" or action_head.init = "random"',
        )


def _counterparts(head: MotHead, backbone: Backbone) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair the expert's tensors with those of the backbone of the same name."""
    assert isinstance(backbone, nn.Module)
    inside: set[Tensor] = set()
    for mine, block in zip(head.blocks, backbone.blocks, strict=True):
        if mine is None:
            continue
        assert isinstance(mine, nn.Module) and isinstance(block, nn.Module)
        theirs = dict(block.named_parameters())
        for name, tensor in mine.named_parameters():
            inside.add(tensor)
            if name in theirs:
                yield tensor, theirs[name]
    outer = dict(backbone.named_parameters())
    own = head.condition_embedder is not None
    for name, tensor in (head if own else head.expert).named_parameters():
        is_outer = name.startswith("condition_embedder.") or not own
        if is_outer and tensor not in inside and name in outer:
            yield tensor, outer[name]

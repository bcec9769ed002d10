"""Start an action expert from a wider video transformer: interpolate every axis, keep the scale.

Fast-WAM (scripts/preprocess_action_dit_backbone.py): what has a counterpart of the same name is
copied if the shapes agree, otherwise resized axis by axis by linear interpolation; a matrix whose
input axis shrank is multiplied by sqrt(old / new), which keeps the size of its outputs. Unlike
there, tables that stack several pieces of the model's width (the time projection) are resized
piece by piece, so that shift, scale and gate do not bleed into each other.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.errors import WamkitError
from wamkit.interfaces import VideoBackbone


def resized(source: Tensor, shape: tuple[int, ...], widths: tuple[int, int]) -> Tensor:
    """`source` interpolated to `shape`; `widths` are the model widths it comes from and goes to."""
    x = source.detach().float()
    old_width, new_width = widths
    for axis, (old, new) in enumerate(zip(source.shape, shape, strict=True)):
        if old == new:
            continue
        pieces, left = divmod(old, old_width)
        if left or new % new_width or new // new_width != pieces:
            pieces = 1
        y = x.movedim(axis, -1)
        lead = y.shape[:-1]
        y = y.reshape(-1, 1, old // pieces)
        y = F.interpolate(y, new // pieces, mode="linear", align_corners=True)
        x = y.reshape(*lead, new).movedim(-1, axis)
    if source.ndim >= 2 and shape[-1] < source.shape[-1]:
        x = x * (source.shape[-1] / shape[-1]) ** 0.5
    return x


@torch.no_grad()
def from_video(expert: nn.Module, backbone: VideoBackbone, *, every: int) -> list[str]:
    """Fill those of the expert's tensors that have a counterpart; return their names.

    Expert block i takes from the backbone's block i * every. Raises WamkitError if the backbone has
    no tensor of any name the expert knows.
    """
    assert isinstance(backbone, nn.Module)
    blocks = [dict(block.named_parameters()) for block in backbone.blocks]  # type: ignore[attr-defined]
    outer = dict(backbone.named_parameters())
    widths = (backbone.traits.width, expert.get_parameter("action_encoder.weight").shape[0])
    filled = []
    for name, tensor in expert.named_parameters():
        place = re.fullmatch(r"expert\.(\d+)\.(.+)", name)
        source = blocks[int(place[1]) * every].get(place[2]) if place else outer.get(name)
        if source is None or source.ndim != tensor.ndim:
            continue
        tensor.copy_(resized(source, tuple(tensor.shape), widths))
        filled.append(name)
    if not filled:
        raise WamkitError(
            "the action expert cannot start from this backbone: no weight has a name it knows "
            "(attn1.to_q, ffn.net.0.proj, ...)",
            'set action_head.init = "random"',
        )
    return filled

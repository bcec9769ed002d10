"""The order in which the latent frames of a clip stand in model inputs, by `cameras.layout`.

Views are a and b, with two frames observed and two imagined:

    side_by_side    times 0 1 2 3           one canvas at every time
    frame_per_view  times 0 1 2 3 4 5 6 7   views a b a b a b a b
    clip_per_view   times 0 1 0 1 2 3 2 3   views a a b b a a b b
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..config.spec import PolicySpec


def join_views(spec: PolicySpec, z: Tensor) -> Tensor:
    """Latents [B * V, C, T, h, w] of views, samples outermost, as one clip [B, C, V * T, h, w].

    T begins with the observed frames.
    """
    views = spec.cameras.apart
    if views == 1:
        return z
    apart = z.unflatten(0, (-1, views))  # [B, V, C, T, h, w]
    if spec.cameras.layout != "clip_per_view":
        return apart.movedim(1, 3).flatten(2, 3)
    observed = spec.latent_frames[0] // views
    pieces = apart[:, :, :, :observed], apart[:, :, :, observed:]
    return torch.cat([piece.transpose(1, 2).flatten(2, 3) for piece in pieces], 2)


def split_views(spec: PolicySpec, z: Tensor) -> Tensor:
    """What `join_views` was given, of its result."""
    views = spec.cameras.apart
    if views == 1:
        return z
    if spec.cameras.layout != "clip_per_view":
        return z.unflatten(2, (-1, views)).movedim(3, 1).flatten(0, 1)
    observed = spec.latent_frames[0]
    pieces = z[:, :, :observed], z[:, :, observed:]
    apart = torch.cat([piece.unflatten(2, (views, -1)) for piece in pieces], 3)
    return apart.transpose(1, 2).flatten(0, 1)


def places_of_frames(
    spec: PolicySpec, observed: int, imagined: int
) -> tuple[tuple[float, ...], tuple[int | None, ...]]:
    """Times of so many observed and imagined frames, and the view of each; () for no views.

    The leading frames of the action head are among the observed ones, before 0, and of no view.
    """
    leading = spec.leading_frames
    if spec.cameras.layout != "clip_per_view":
        return tuple(float(i - leading) for i in range(observed + imagined)), ()
    count = len(spec.cameras.views)
    first, rest = range((observed - leading) // count), range(imagined // count)
    times = [float(i - leading) for i in range(leading)]
    times += [float(t) for _ in range(count) for t in first]
    times += [float(t + len(first)) for _ in range(count) for t in rest]
    views = [v for part in (first, rest) for v in range(count) for _ in part]
    return tuple(times), (*[None] * leading, *views)


def frame_validity(spec: PolicySpec, valid: Tensor) -> Tensor:
    """Whether each latent frame of a clip is real [B, T]: padding only if all its images are.

    `valid` is [B, images] bool. Leading frames are left out.
    """
    stride, views = spec.time_stride, spec.cameras.apart
    seen = spec.video.num_observed if spec.video.observed_latents == "images" else 0
    parts, rest = [valid[:, :seen]], valid[:, seen:]
    if rest.shape[1]:
        parts += [rest[:, :1], rest[:, 1:].unflatten(1, (-1, stride)).any(-1)]
    latent = torch.cat(parts, 1)
    if spec.cameras.layout != "clip_per_view":
        return latent.repeat_interleave(views, 1)
    observed = spec.latent_frames[0] // views
    parts = [latent[:, :observed], latent[:, observed:]]
    return torch.cat([part.repeat(1, views) for part in parts], 1)

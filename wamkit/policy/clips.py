"""Images of the views as clips of the VAE, and latents back to images.

Views that are frames of their own come as [B * V, 3, T, height, width], samples outermost, and are
encoded apart or as one shared clip. A shared clip of two views, with one image observed and one
imagined, and slots for a blank frame, the state, the action and the next state:

    black  black x4  wrist x4  front x4  black x4  black x4  wrist' x4  front' x4   images
    blank  (state)   wrist     front     (action)  (next)    wrist'     front'      latents
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config.spec import PolicySpec
from .frame_order import join_views, split_views
from .view_latents import decode_by_view, encode_by_view

BLACK = -1.0


def vae_dtype(vae: Any) -> torch.dtype:
    """Dtype of the inputs of a VAE: that of its weights, or float32."""
    parameter = next(iter(vae.parameters()), None)
    return torch.float32 if parameter is None else parameter.dtype


def encode_canvas(spec: PolicySpec, vae: Any, canvas: Tensor) -> Tensor:
    """Latents [B, C, T, h, w] float32 of a canvas, without leading frames.

    Frames of views stand as in `frame_order`.
    """
    views = spec.cameras.apart
    if spec.cameras.encode == "views":
        return encode_by_view(spec, partial(encode_pixels, vae), canvas)
    if spec.cameras.clip == "shared":
        before, between = spec.action_head.black_frames(spec.sizes)
        observed = before + views * spec.video.num_observed
        z = encode_pixels(vae, shared_clip(spec, canvas))
        return torch.cat([z[:, :, before:observed], z[:, :, observed + between :]], 2)
    alone = spec.video.num_observed if spec.video.observed_latents == "images" else 0
    seen, rest = canvas[:, :, :alone], canvas[:, :, alone:]
    parts = []
    if count := seen.shape[2]:
        z = encode_pixels(vae, seen.transpose(1, 2).flatten(0, 1).unsqueeze(2)).squeeze(2)
        parts.append(z.unflatten(0, (-1, count)).transpose(1, 2))
    if rest.shape[2]:
        parts.append(encode_pixels(vae, rest))
    return join_views(spec, parts[0] if len(parts) == 1 else torch.cat(parts, 2))


def shared_clip(spec: PolicySpec, canvas: Tensor, *, whole: bool = False) -> Tensor:
    """All images and the black ones of the slots as one clip [B, 3, images, height, width].

    The slots behind the observed images are left out where no image follows, unless `whole`.
    """
    before, between = spec.action_head.black_frames(spec.sizes)
    views, stride = spec.cameras.apart, spec.vae.stride[0]
    frames = canvas.unflatten(0, (-1, views)).movedim(1, 3).flatten(2, 3)
    observed = views * spec.video.num_observed
    seen, future = frames[:, :, :observed], frames[:, :, observed:]

    def black(count: int) -> Tensor:
        return torch.full_like(frames[:, :, :1], BLACK).expand(-1, -1, count, -1, -1)

    clip = [black(before), seen]
    if future.shape[2] or whole:
        clip += [black(between), future]
    frames = torch.cat(clip, 2)
    return torch.cat([frames[:, :, :1], frames[:, :, 1:].repeat_interleave(stride, 2)], 2)


def decode_latents(spec: PolicySpec, vae: Any, z: Tensor, canvas: Tensor) -> Tensor:
    """Images [B * V, 3, T, height, width] of latents without leading frames.

    `canvas` are the observed images. In a shared clip they and the black images of the slots are
    decoded before the imagined ones.
    """
    views, dtype = spec.cameras.apart, vae_dtype(vae)
    if spec.cameras.encode == "views":
        return decode_by_view(spec, lambda x: vae.decode(x.to(dtype)).float(), z)
    if spec.cameras.clip == "shared":
        before, between = spec.action_head.black_frames(spec.sizes)
        observed = views * spec.video.num_observed
        known = encode_pixels(vae, shared_clip(spec, canvas, whole=True))
        raw = vae.decode(torch.cat([known, z[:, :, observed:]], 2).to(dtype)).float()
        places = [*range(before, before + observed)]
        places += range(before + observed + between, known.shape[2] + z.shape[2] - observed)
        stride = spec.vae.stride[0]
        images = raw[:, :, [max(0, 1 + (place - 1) * stride) for place in places]]
        return images.unflatten(2, (-1, views)).movedim(3, 1).flatten(0, 1)
    z = split_views(spec, z)
    if spec.video.observed_latents == "images":
        z = z[:, :, spec.video.num_observed :]
    decoded: Tensor = vae.decode(z.to(dtype)).float()
    if spec.video.observed_latents == "images":
        decoded = torch.cat([canvas.to(decoded), decoded], 2)
    return decoded


def encode_pixels(vae: Any, pixels: Tensor) -> Tensor:
    """Latents [B, C, T, h, w] float32 of images [B, 3, T, height, width] in [-1, 1]."""
    z: Tensor = vae.encode(pixels.to(vae_dtype(vae))).float()
    return z

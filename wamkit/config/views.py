"""Rules for views with clips of their own, memory images, and states that are predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .alternatives import backbones_with_views
from .parts import Conflict

if TYPE_CHECKING:
    from .spec import PolicySpec


def memory_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield from the rules below that hold whatever the VAE makes of the observed images."""
    yield from view_conflicts(spec)
    yield from observed_stride_conflicts(spec)
    yield from predicted_state_conflicts(spec)


def view_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield what keeps each view from being a clip by itself; nothing in other layouts."""
    if spec.cameras.layout != "clip_per_view":
        return
    known, found = spec.backbone.traits.views, len(spec.cameras.views)
    if not known:
        yield Conflict(
            between=("cameras.layout", "backbone"),
            why=f"each view is a clip by itself, and {spec.backbone.name} tells no views apart",
            hint='set cameras.layout = "side_by_side", or choose a backbone with views'
            f"{backbones_with_views()}",
        )
    elif found > known:
        yield Conflict(
            between=("cameras.views", "backbone"),
            why=f"{spec.backbone.name} tells {known} views apart, found {found}",
            hint=f"leave {found - known} of cameras.views out, or choose another layout",
        )
    yield from _episodes(spec, "cameras.layout", 'set cameras.layout = "side_by_side"')


def observed_images_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield what does not fit where each observed image is a latent of its own."""
    stride, video = spec.vae.stride[0], spec.video
    future = video.num_frames - video.num_observed
    if future < 0 or (future and (future - 1) % stride):
        low = video.num_observed + 1 + max(0, future - 1) // stride * stride
        yield Conflict(
            between=("video.num_frames", "video.observed_latents"),
            why=f"{future} images behind those observed, which begin a clip of their own, cannot "
            f"be cut into one and groups of {stride}, as {spec.vae.name} needs",
            hint=f"set video.num_frames = {low} or {low + stride}",
        )
    if spec.cameras.clip == "shared":
        yield Conflict(
            between=("video.observed_latents", "cameras.clip"),
            why="all views are one clip, in which every image is a latent already",
            hint='set video.observed_latents = "clip"',
        )
    if spec.backbone.traits.cond_channels:
        yield Conflict(
            between=("video.observed_latents", "backbone"),
            why=f"{spec.backbone.name} is guided by a clip that begins with the observed images",
            hint='set video.observed_latents = "clip"',
        )
    yield from _episodes(spec, "video.observed_latents", 'set video.observed_latents = "clip"')


def observed_stride_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield what does not fit where observed images are further apart than others."""
    if spec.video.observed_stride not in (None, spec.video.frame_stride):
        hint = f"set video.observed_stride = {spec.video.frame_stride}"
        yield from _episodes(spec, "video.observed_stride", hint)


def predicted_state_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield what does not fit where the state is predicted with each action."""
    for group in spec.actions.groups:
        if group.kind != "state":
            continue
        start = group.state or 0
        if start + group.size > spec.state.size:
            yield Conflict(
                between=("actions.groups", "state.size"),
                why=f"group {group.name!r} is values {start} to {start + group.size - 1} of a "
                f"state of {spec.state.size}",
                hint=f"set state.size = {start + group.size}",
            )
        hint = 'leave out groups of kind = "state"'
        yield from _episodes(spec, "actions.groups", hint)


def _episodes(spec: PolicySpec, key: str, hint: str) -> Iterator[Conflict]:
    """Conflicts with paradigms that continue one clip through an episode."""
    if any("." in role for role in spec.paradigm.sees):
        yield Conflict(
            between=(key, "paradigm"),
            why=f"{spec.paradigm.name} continues one clip from chunk to chunk",
            hint=f"{hint}, or choose another paradigm",
        )

"""What keeps the VAE from encoding every view of a canvas by itself, or an episode as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parts import Conflict
from .tiling import resize_hint

if TYPE_CHECKING:
    from .spec import PolicySpec


def encoding_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield a conflict where views are no whole latents, or share no canvas."""
    yield from _stream_conflicts(spec)
    cameras, (_, rows, columns) = spec.cameras, spec.vae.stride
    if cameras.encode != "views":
        return
    if cameras.layout in ("frame_per_view", "clip_per_view"):
        yield Conflict(
            between=("cameras.encode", "cameras.layout"),
            why="views are to be laid on one canvas of latents, and each is a frame by itself",
            hint='set cameras.encode = "canvas", which encodes them by themselves there',
        )
        return
    if spec.video.observed_latents == "images":
        yield Conflict(
            between=("cameras.encode", "video.observed_latents"),
            why="every view is encoded as one clip, and each observed image is to be a latent by "
            "itself",
            hint='set cameras.encode = "canvas", or video.observed_latents = "clip"',
        )
    if cameras.fill and len({sum(view.size[1] for view in row) for row in cameras.rows()}) > 1:
        yield Conflict(
            between=("cameras.encode", "cameras.fill"),
            why="rows are filled with black pixels, and only views are encoded",
            hint='set cameras.encode = "canvas", or give every row the same width: '
            f"{resize_hint(cameras, (rows, columns))}",
        )
    scale = spec.video.target_downscale
    for view in cameras.views:
        height, width = view.size
        if height % (rows * scale) or width % (columns * scale):
            yield Conflict(
                between=("cameras.views", "vae"),
                why=f"view {view.name!r} of {height}x{width} is no whole number of latents of "
                f"{spec.vae.name} (stride {rows})",
                hint=resize_hint(cameras, (rows * scale, columns * scale)),
            )


def _stream_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """What keeps a session from encoding new images alone (`video.episode_latents`)."""
    if spec.video.episode_latents != "stream":
        return
    why = None
    if not spec.vae.streams:
        why = f"{spec.vae.name} encodes whole clips only"
    elif spec.video.target_downscale > 1:
        why = "imagined frames have a grid of their own"
    elif spec.cameras.clip == "shared" or spec.video.observed_latents == "images":
        why = "the images of a sample are no clip in the order in which they were seen"
    if why is not None:
        yield Conflict(
            between=("video.episode_latents", "vae"),
            why=f"an episode is to be encoded as a stream, and {why}",
            hint='set video.episode_latents = "window"',
        )

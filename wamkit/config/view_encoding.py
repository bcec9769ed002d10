"""What keeps the VAE from encoding every view of a canvas by itself (`cameras.encode`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parts import Conflict
from .tiling import resize_hint

if TYPE_CHECKING:
    from .spec import PolicySpec


def encoding_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield a conflict where views are no whole latents, or share no canvas."""
    cameras, (_, rows, columns) = spec.cameras, spec.vae.stride
    if cameras.encode != "views":
        return
    if cameras.layout == "frame_per_view":
        yield Conflict(
            between=("cameras.encode", "cameras.layout"),
            why="views are to be laid on one canvas of latents, and each is a frame by itself",
            hint='set cameras.encode = "canvas", which encodes them by themselves there',
        )
        return
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

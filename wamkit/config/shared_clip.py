"""What has no place where all views are one clip of the VAE (`cameras.clip = "shared"`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parts import Conflict

if TYPE_CHECKING:
    from .spec import PolicySpec


def shared_clip_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield what has no place where all views are one clip."""
    if spec.cameras.clip != "shared":
        return
    chunks = spec.paradigm.chunks_per_sample
    for between, why in (
        (
            "video.target_downscale",
            "imagined frames of another size cannot be in it"
            if spec.video.target_downscale > 1
            else "",
        ),
        (
            "backbone",
            f"this variant of {spec.backbone.name} is guided by the latents of each view's images"
            if spec.backbone.traits.cond_channels
            else "",
        ),
        (
            "paradigm",
            f"it has slots for one chunk, and {spec.paradigm.name} learns {chunks} in a row"
            if chunks > 1
            else "",
        ),
    ):
        if why:
            yield Conflict(
                between=("cameras.clip", between),
                why=f"all views are one clip, and {why}",
                hint='set cameras.clip = "per_view"',
            )

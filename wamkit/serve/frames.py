"""Frames that a policy imagines, as JPEG."""

from __future__ import annotations

from ..files.pixels import to_jpeg
from ..policy.observation import Imagined


def encode_imagined(future: Imagined, row: int) -> dict[str, list[bytes]]:
    """The predicted frames of one robot: view -> JPEG files, oldest first, none observed."""
    found = {}
    for view, clip in future.views.items():
        frames = clip[row, :, future.observed :].movedim(0, -1)  # [T, height, width, 3]
        pixels = ((frames + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
        found[view] = [to_jpeg(frame) for frame in pixels]
    return found

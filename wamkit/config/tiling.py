"""Sizes of views that tile a canvas without gaps, and cut into whole tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cameras import CameraConfig, View

Size = tuple[int, int]


def tile_sizes(cameras: CameraConfig, token: Size = (1, 1)) -> dict[str, Size]:
    """View -> the size nearest to its own with which the views tile the canvas.

    Args:
        cameras: Views and layout.
        token: Height and width of a token in pixels; every size becomes a multiple of it.

    The first view of a row decides its height; the last one takes up what a row lacks in width.
    """
    if cameras.layout in ("frame_per_view", "clip_per_view"):
        first = cameras.views[0].size
        size = nearest_multiple(first[0], token[0]), nearest_multiple(first[1], token[1])
        return {view.name: size for view in cameras.views}
    rows = [_row(row, token) for row in cameras.rows()]
    widest = max(sum(size[1] for _, size in row) for row in rows)
    sizes: dict[str, Size] = {}
    for row in rows:
        lacking = widest - sum(size[1] for _, size in row)
        name, (height, width) = row[-1]
        sizes |= {**dict(row), name: (height, width + lacking)}
    return sizes


def nearest_multiple(pixels: int, token: int) -> int:
    """The multiple of `token` nearest to `pixels`, at least one."""
    return max(token, round(pixels / token) * token)


def resize_hint(cameras: CameraConfig, token: Size = (1, 1)) -> str:
    """What to set so that the views tile the canvas, for a hint."""
    sizes = tile_sizes(cameras, token)
    changes = [
        f"cameras.views.{place}.size = {list(sizes[view.name])}"
        for place, view in enumerate(cameras.views)
        if sizes[view.name] != view.size
    ]
    return f"set {' and '.join(changes)}"


def retile(cameras: CameraConfig, token: Size = (1, 1)) -> CameraConfig:
    """The same cameras with those sizes."""
    sizes = tile_sizes(cameras, token)
    views = (view.model_copy(update={"size": sizes[view.name]}) for view in cameras.views)
    return cameras.model_copy(update={"views": tuple(views)})


def _row(views: Sequence[View], token: Size) -> list[tuple[str, Size]]:
    """The views of a row, all as high as the first."""
    height = nearest_multiple(views[0].size[0], token[0])
    return [(view.name, (height, nearest_multiple(view.size[1], token[1]))) for view in views]

"""One view's images on their way to the canvas.

Steps run in the order rotate, flip, center share, recorded size, JPEG, fit, resize, center crop,
repeated columns, averaged squares: on floats in [-1, 1] or, where `rounding` says so, on 8-bit
images on the host, with what decides about the last bit: Pillow, or OpenCV's arithmetic.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..config.cameras import View
from ..files.images import open_image
from .opencv_resize import resize_by_opencv


def fit_to_view(image: Tensor, view: View) -> Tensor:
    """Images [B, 3, h, w] in [-1, 1], or 8-bit, as the view's images in [-1, 1] at its size."""
    if view.resized == view.size:
        return _fitted(image, view)
    image = _fitted(image, view.model_copy(update={"size": view.resized}))
    image = image.repeat_interleave(view.repeat_columns, -1)
    return F.avg_pool2d(image, view.average) if view.average > 1 else image


def _fitted(image: Tensor, view: View) -> Tensor:
    """The images before columns are repeated and squares averaged."""
    if view.rounding == "floor":  # in [0, 1], as torch reads 8-bit images
        unit = image.float() / 255 if image.dtype == torch.uint8 else (image.float() + 1) / 2
        unit = _frame(_turn(unit, view), view, black=0.0)
        if unit.shape[-2:] != (goal := _covering(unit, view)):
            unit = _resize(unit, goal, view).clamp(0, 1)
        return _to_unit((_cut(unit, view) * 255).to(torch.uint8))
    if not view.is_8bit:
        image = _turn(_to_unit(image), view)
        if view.recorded_size is not None:
            image = _resize(image, view.recorded_size, view).clamp(-1, 1)
        return _fit(image, view)
    device = image.device
    image = _turn(_to_8bit(image.cpu()), view)
    if view.recorded_size is not None:
        image = _resize_8bit(image, view.recorded_size, view)
    if view.jpeg is not None:
        quality = view.jpeg
        image = _by_pillow(image, lambda one: _through_jpeg(one, quality))
    if view.rounding == "none":
        return _fit(_to_unit(image.to(device)), view)
    image = _frame(image, view, black=0)
    image = _cut(_resize_8bit(image, _covering(image, view), view), view)
    if view.center_crop < 1:
        image = _crop_center(image.float(), view).round().clamp(0, 255)
    return _to_unit(image.to(device).to(torch.uint8))


def _to_unit(image: Tensor) -> Tensor:
    return image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image.float()


def _to_8bit(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _turn(image: Tensor, view: View) -> Tensor:
    if view.rotate:
        image = torch.rot90(image, view.rotate // 90, (-2, -1))
    if view.flip != "none":
        image = image.flip(-1 if view.flip == "horizontal" else -2)
    if view.center_share < 1:
        height, width = image.shape[-2:]
        high, wide = (max(1, int(n * view.center_share)) for n in (height, width))
        top, left = round((height - high) / 2), round((width - wide) / 2)
        image = image[..., top : top + high, left : left + wide]
    return image


def _frame(image: Tensor, view: View, black: float) -> Tensor:
    """The image cut or framed to the shape of the view, as `fit` says."""
    height, width = image.shape[-2:]
    goal_h, goal_w = view.size
    if view.fit in ("stretch", "cover"):
        return image
    # The largest box of the goal's shape inside the image, or the smallest one around it.
    wide = width * goal_h > height * goal_w
    if wide == (view.fit == "crop"):
        box_h, box_w = height, max(1, round(height * goal_w / goal_h))
    else:
        box_h, box_w = max(1, round(width * goal_h / goal_w)), width
    dy, dx = box_h - height, box_w - width
    return F.pad(image, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2), value=black)


def _covering(image: Tensor, view: View) -> tuple[int, int]:
    """The size that an image is resized to: the view's, or one of its own shape that covers it."""
    if view.fit != "cover":
        return view.size
    (height, width), (goal_h, goal_w) = image.shape[-2:], view.size
    scale = max(goal_h / height, goal_w / width)
    return round(height * scale), round(width * scale)


def _cut(image: Tensor, view: View) -> Tensor:
    """The center of a resized image that covers the view."""
    (height, width), (goal_h, goal_w) = image.shape[-2:], view.size
    top, left = (height - goal_h) // 2, (width - goal_w) // 2
    return image[..., top : top + goal_h, left : left + goal_w]


def _fit(image: Tensor, view: View) -> Tensor:
    """A float image cut or framed, resized and cropped."""
    image = _frame(image, view, black=-1.0)
    if image.shape[-2:] != (goal := _covering(image, view)):
        image = _resize(image, goal, view).clamp(-1, 1)
    image = _cut(image, view)
    return image if view.center_crop == 1 else _crop_center(image, view).clamp(-1, 1)


def _crop_center(image: Tensor, view: View) -> Tensor:
    """`center_crop` of the area of a float image, resized to the view's size."""
    (height, width), edge = view.size, math.sqrt(view.center_crop)
    high, wide = max(1, int(height * edge)), max(1, int(width * edge))
    top, left = round((height - high) / 2), round((width - wide) / 2)
    cut = image[..., top : top + high, left : left + wide]
    return F.interpolate(cut, view.size, mode="bilinear", antialias=True, align_corners=False)


def _resize(image: Tensor, size: tuple[int, int], view: View) -> Tensor:
    return F.interpolate(
        image, size, mode=view.filter, antialias=view.antialias, align_corners=False
    )


def _resize_8bit(image: Tensor, size: tuple[int, int], view: View) -> Tensor:
    """8-bit images [B, 3, h, w] resized, by Pillow with a rounding between its two passes."""
    if image.shape[-2:] == size:
        return image
    if view.rounding == "opencv":
        return resize_by_opencv(image, size)
    kinds = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    kind, (height, width) = kinds[view.filter], size
    return _by_pillow(image, lambda one: one.resize((width, height), kind))


def _by_pillow(image: Tensor, step: Callable[[Image.Image], Image.Image]) -> Tensor:
    """8-bit images [B, 3, h, w], each through a step that takes and returns a Pillow image."""
    pixels = image.permute(0, 2, 3, 1).contiguous().numpy()
    done = np.stack([np.asarray(step(Image.fromarray(one))) for one in pixels])
    return torch.from_numpy(done).permute(0, 3, 1, 2)


def _through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    with open_image(stream.getvalue(), "a JPEG of a view") as decoded:
        return decoded.convert("RGB")

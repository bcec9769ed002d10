"""Views to one canvas and back, the same in a data set, a server and a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..config.robot import CameraConfig, View
from ..errors import WamkitError, did_you_mean


class CameraLayout:
    """Lays out every view on the canvas: rotate, flip, fit, resize."""

    def __init__(self, config: CameraConfig) -> None:
        self.config = config
        self.boxes = config.boxes()

    def canvas(self, images: Mapping[str, Tensor]) -> Tensor:
        """Images [B, T, 3, h, w], uint8 or [-1, 1], to [B, 3, T, H, W] float in [-1, 1].

        Deep ones are [B, T, 1, h, w] and scaled by their view's `value_range`.

        Where views are frames of their own, to [B * V, 3, T, H, W], samples outermost. Raises
        WamkitError if a camera is missing or unknown, or the views differ in batch or time.
        """
        names = [view.name for view in self.config.views]
        if unknown := sorted(set(images) - set(names)):
            raise WamkitError(
                f"unknown camera {', '.join(map(repr, unknown))}; "
                f"this policy has {', '.join(names)}",
                did_you_mean(unknown[0], names, f"call it {names[0]!r}"),
            )
        if missing := [name for name in names if name not in images]:
            raise WamkitError(
                f"no image from camera {', '.join(map(repr, missing))}",
                f"give one: --image {missing[0]}=FILE",
            )
        counts = {name: tuple(images[name].shape[:2]) for name in names}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{k} {v}" for k, v in counts.items())
            raise WamkitError(
                f"views differ in samples or images: {found}",
                "give every camera as many images",
            )
        batch, time = counts[names[0]]
        if self.config.apart > 1:
            views = [fit_to_view(self._unit(images, v).flatten(0, 1), v) for v in self.config.views]
            stacked = torch.stack([v.unflatten(0, (batch, time)) for v in views], 1)
            return stacked.flatten(0, 1).transpose(1, 2)
        first = images[names[0]]
        canvas = torch.empty(batch * time, 3, *self.config.canvas, device=first.device)
        for view in self.config.views:
            top, left, height, width = self.boxes[view.name]
            image = fit_to_view(self._unit(images, view).flatten(0, 1), view)
            canvas[:, :, top : top + height, left : left + width] = image
        return canvas.unflatten(0, (batch, time)).transpose(1, 2)

    def expect_units(self, images: Mapping[str, Tensor]) -> None:
        """Check that deep images are in the unit of their view's `value_range`.

        Raises WamkitError if every pixel of an image on the host is beyond the range, so that the
        image would be all black or all white.
        """
        for view in self.config.views:
            image = images.get(view.name)
            if view.value_range is None or image is None or image.device.type != "cpu":
                continue
            low, high = map(float, torch.aminmax(image))
            if low < high and (high <= view.value_range[0] or low >= view.value_range[1]):
                raise WamkitError(
                    f"camera {view.name!r}: all values, from {low:g} to {high:g}, are beyond its "
                    f"value_range of {view.value_range[0]:g} to {view.value_range[1]:g}",
                    "give them in the unit of the range, such as millimeters",
                )

    def _unit(self, images: Mapping[str, Tensor], view: View) -> Tensor:
        """Images of a view [B, T, 3, h, w] float in [-1, 1]; deep ones by its `value_range`."""
        image = images[view.name]
        expect_channels(self.config, view.name, image.shape[-3], image, f"camera {view.name!r}")
        if view.value_range is not None:
            low, high = view.value_range
            image = ((image.float() - low) / (high - low)).clamp(0, 1) * 2 - 1
            return image.expand(*image.shape[:-3], 3, *image.shape[-2:])
        return image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image.float()

    def merge_views(self, canvas: Tensor) -> Tensor:
        """One canvas [B, 3, T, H, W]; views that are frames of their own are laid in a row."""
        if self.config.apart == 1:
            return canvas
        return canvas.unflatten(0, (-1, self.config.apart)).movedim(1, -2).flatten(-2)

    def split(self, canvas: Tensor) -> dict[str, Tensor]:
        """Split a canvas [..., H, W], of any scale, into the views."""
        if self.config.apart > 1:
            views = canvas.unflatten(0, (-1, self.config.apart)).unbind(1)
            return dict(zip(self.boxes, views, strict=True))
        scale = self.config.canvas[0] // canvas.shape[-2]
        boxes = {name: tuple(-(-edge // scale) for edge in box) for name, box in self.boxes.items()}
        return {
            name: canvas[..., top : top + height, left : left + width]
            for name, (top, left, height, width) in boxes.items()
        }


def expect_channels(
    config: CameraConfig, name: str, channels: int, values: Tensor | NDArray[Any], where: str
) -> None:
    """Raise WamkitError unless a view's images are deep where it has a `value_range`, else color.

    `values` are those of the images, `where` names them in the error.
    """
    place = next(i for i, view in enumerate(config.views) if view.name == name)
    key, view = f"cameras.views.{place}.value_range", config.views[place]
    if channels == 1 and view.value_range is None:
        low, high = float(values.min()), float(values.max())
        high += low == high
        raise WamkitError(
            f"{where}: one channel with values from {low:g} to {high:g}, and view {name!r} has no "
            "value_range that defines black and white",
            f"set {key}=[{low:g}, {high:g}], or the range of the sensor, for training and "
            "acting alike; or convert the images to 8-bit color",
        )
    if channels != 1 and view.value_range is not None:
        raise WamkitError(
            f"{where}: 8-bit color, and view {name!r} expects one channel of values from "
            f"{view.value_range[0]:g} to {view.value_range[1]:g}",
            f"give the image as it was recorded, or leave {key} out",
        )


def fit_to_view(image: Tensor, view: View) -> Tensor:
    """Images [B, 3, h, w] in [-1, 1] turned, fitted and resized to the view's size."""
    if view.rotate:
        image = torch.rot90(image, view.rotate // 90, (-2, -1))
    if view.flip != "none":
        image = image.flip(-1 if view.flip == "horizontal" else -2)
    height, width = image.shape[-2:]
    goal_h, goal_w = view.size
    if view.fit == "cover":
        scale = max(goal_h / height, goal_w / width)
        image = _resized(image, (round(height * scale), round(width * scale)), view)
        top, left = (image.shape[-2] - goal_h) // 2, (image.shape[-1] - goal_w) // 2
        return image[..., top : top + goal_h, left : left + goal_w]
    if view.fit != "stretch":
        # The largest box of the goal's shape inside the image, or the smallest one around it.
        wide = width * goal_h > height * goal_w
        if wide == (view.fit == "crop"):
            box_h, box_w = height, max(1, round(height * goal_w / goal_h))
        else:
            box_h, box_w = max(1, round(width * goal_h / goal_w)), width
        dy, dx = box_h - height, box_w - width
        image = F.pad(image, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2), value=-1.0)
    return _resized(image, (goal_h, goal_w), view)


def _resized(image: Tensor, size: tuple[int, int], view: View) -> Tensor:
    """Images in [-1, 1] at another size, rounded as the view says."""
    if image.shape[-2:] == size:
        return image
    if view.rounding == "none":
        return _interpolate(image, size).clamp(-1, 1)
    levels = torch.round((image + 1) * 127.5)  # whole numbers, so that halves are exact
    for goal in ((image.shape[-2], size[1]), size):
        if levels.shape[-2:] != goal:
            levels = torch.floor(_interpolate(levels, goal) + 0.5)
    return levels.clamp(0, 255) / 127.5 - 1


def _interpolate(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)

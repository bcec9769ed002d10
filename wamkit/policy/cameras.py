"""Views to one canvas and back, the same in a data set, a server and a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.cameras import CameraConfig, View
from ..engine.device import to_device
from ..errors import WamkitError, did_you_mean
from .view_steps import fit_to_view


class CameraLayout:
    """Lays out every view on the canvas (`wamkit.policy.view_steps`)."""

    def __init__(self, config: CameraConfig) -> None:
        self.config = config
        self.boxes = config.boxes()

    def canvas(
        self, images: Mapping[str, Tensor], device: torch.device | str | None = None
    ) -> Tensor:
        """Images [B, T, 3, h, w], uint8 or [-1, 1], to [B, 3, T, H, W] float in [-1, 1].

        Deep ones are [B, T, 1, h, w] and scaled by their view's `value_range`.

        On `device`, by default that of the first view; 8-bit steps run on the host.
        Where views are frames of their own, to [B * V, 3, T, H, W], samples outermost. Raises
        WamkitError as `expect_views` does.
        """
        batch, time = self.expect_views(images)
        names = [view.name for view in self.config.views]
        device = torch.device(images[names[0]].device if device is None else device)
        if self.config.apart > 1:
            views = [to_device(self._fitted(images, view), device) for view in self.config.views]
            stacked = torch.stack([v.unflatten(0, (batch, time)) for v in views], 1)
            return stacked.flatten(0, 1).transpose(1, 2)
        shape = (batch * time, 3, *self.config.canvas)
        canvas = torch.full(shape, -1.0, device=device)
        for view in self.config.views:
            top, left, height, width = self.boxes[view.name]
            image = to_device(self._fitted(images, view), device)
            canvas[:, :, top : top + height, left : left + width] = image
        return canvas.unflatten(0, (batch, time)).transpose(1, 2)

    def expect_views(self, images: Mapping[str, Tensor]) -> tuple[int, int]:
        """Batch and time of images [B, T, channels, h, w] that `canvas` can lay out.

        Raises WamkitError if a camera is missing or unknown, has images of the wrong number of
        channels, or the views differ in batch or time.
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
        for name in names:
            image = images[name]
            expect_channels(self.config, name, image.shape[-3], image, f"camera {name!r}")
        batch, time = counts[names[0]]
        return batch, time

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

    def _fitted(self, images: Mapping[str, Tensor], view: View) -> Tensor:
        """Images of a view [B * T, 3, H, W] in [-1, 1] at its size."""
        return fit_to_view(self._unit(images, view).flatten(0, 1), view)

    def _unit(self, images: Mapping[str, Tensor], view: View) -> Tensor:
        """Images of a view [B, T, 3, h, w] as given; deep ones in [-1, 1] by its `value_range`."""
        image = images[view.name]
        if view.value_range is not None:
            low, high = view.value_range
            image = ((image.float() - low) / (high - low)).clamp(0, 1) * 2 - 1
            return image.expand(*image.shape[:-3], 3, *image.shape[-2:])
        return image

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

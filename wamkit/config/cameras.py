"""The cameras in a spec: views, how images reach them, and how they share a canvas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from .parts import Conflict
from .robot import Section
from .tiling import resize_hint


class View(Section):
    """One camera: how its image is turned, and the size it takes on the canvas."""

    name: str
    """Of the camera, as observations and data sets call it."""
    size: tuple[int, int] = (224, 224)
    """Height and width on the canvas."""
    rotate: Literal[0, 90, 180, 270] = 0
    """Degrees counter-clockwise, before the resize."""
    flip: Literal["none", "horizontal", "vertical"] = "none"
    """Applied after the rotation."""
    fit: Literal["stretch", "crop", "cover", "pad"] = "stretch"
    """How an image of another shape is made to fit: distorted; cut at the center and resized;
    resized until it covers the size and then cut at the center; or framed."""
    recorded_size: tuple[int, int] | None = None
    """Height and width that an image is first resized to, after `flip`, where the data that a
    policy learned from were stored so; left open, none."""
    jpeg: int | None = Field(None, ge=1, le=100)
    """Quality of a JPEG that the image passes before the resize to `size`, for policies that
    learned from JPEGs; left open, none."""
    filter: Literal["bilinear", "bicubic"] = "bilinear"
    """Of the resizes to `recorded_size` and `size`."""
    center_crop: float = Field(1.0, gt=0, le=1)
    """Share of the area that is cut from the center after the resize, and resized to `size` again,
    bilinear: the mean of the random crops that a policy learned from. 1 cuts nothing."""
    rounding: Literal["none", "uint8", "opencv", "floor"] = "none"
    """`uint8`: images are 8-bit between all steps, and resized by Pillow, which rounds after each
    axis; systems whose evaluation resizes 8-bit images need it. `opencv`: the same by OpenCV, whose
    fixed-point arithmetic rounds otherwise (GE-Act on CALVIN). `floor`: they are cut down to whole
    levels once, after the resize, as torch casts (DreamZero)."""
    antialias: bool = True
    """Whether the resize averages all pixels of a larger image; without it, bilinear between the
    nearest ones (LingBot-VA)."""
    center_share: float = Field(1.0, gt=0, le=1)
    """Share of height and of width that is cut out at the center before any resize, the mean of the
    random crops that a policy learned from (DreamZero: 0.95). 1 cuts nothing."""
    repeat_columns: int = Field(1, gt=0)
    """How often each column is repeated, after a resize to so many times less than the width
    (DreamZero: 2 for the wrist)."""
    average: int = Field(1, gt=0)
    """Edge of the squares of pixels whose mean is one, after a resize to so many times the size
    (DreamZero on Wan 2.2: 2)."""

    value_range: tuple[float, float] | None = None
    """For deep images, of one channel such as depth: the values that become black and white, in
    the image's own units ([300, 3500] for depth in millimeters). Between them the scale is
    linear, beyond them it ends, and all three colors are the same. Color images are refused."""

    @field_validator("value_range")
    @classmethod
    def _ascending_times(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and not given[0] < given[1]:
            raise ValueError("the first value of a range must be below the second")
        return given

    @model_validator(mode="after")
    def _consistent(self) -> View:
        if self.rounding == "uint8" and not self.antialias:
            raise ValueError(
                "images that are 8-bit between all steps are resized by Pillow, which averages; "
                "leave antialias or rounding out"
            )
        if self.rounding == "opencv" and (
            self.antialias or self.filter != "bilinear" or self.center_crop < 1
        ):
            raise ValueError(
                'rounding = "opencv" is a resize between the nearest pixels: set antialias = false '
                "and leave filter and center_crop out"
            )
        if self.jpeg is not None and self.recorded_size is not None and not self.antialias:
            raise ValueError(
                "an image that becomes a JPEG is resized to recorded_size by Pillow, which "
                "averages; leave antialias, jpeg or recorded_size out"
            )
        steps = {"jpeg": self.jpeg is not None, "rounding": self.rounding != "none"}
        if self.value_range is not None and any(steps.values()):
            name = next(name for name, wanted in steps.items() if wanted)
            raise ValueError(
                f"{name} makes 8-bit colors, and a view with a value_range is deep; leave one out"
            )
        others = self.jpeg, self.recorded_size, self.center_crop if self.center_crop < 1 else None
        if self.rounding == "floor" and any(others):
            raise ValueError(
                'rounding = "floor" is of one resize; leave jpeg, recorded_size and center_crop out'
            )
        return self

    @property
    def is_8bit(self) -> bool:
        """Whether its images pass 8-bit steps, on the host."""
        return self.jpeg is not None or self.rounding in ("uint8", "opencv")

    @field_validator("size", "recorded_size")
    @classmethod
    def _positive(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is not None and min(size) < 1:
            raise ValueError("height and width must be at least 1")
        return size

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width after the resize, before columns are repeated and squares averaged."""
        height, width = self.size
        return height * self.average, width * self.average // self.repeat_columns

    @model_validator(mode="after")
    def _whole_columns(self) -> View:
        if self.size[1] * self.average % self.repeat_columns:
            raise ValueError(
                f"a width of {self.size[1]} is no whole number of columns that are repeated "
                f"{self.repeat_columns} times"
            )
        return self


class CameraConfig(Section):
    """How the views are laid on one canvas, the same in dataset, server and simulator."""

    layout: Literal[
        "side_by_side", "t_shape", "inverted_t", "grid", "frame_per_view", "clip_per_view"
    ] = "side_by_side"
    """`side_by_side`: one row. `t_shape`: the first view above a row of the others; `inverted_t`:
    below it.
    `grid`: rows of `columns` views. `frame_per_view`: each view is a latent frame by itself, one
    after the other at every moment, all of one size (Cosmos Policy, arXiv 2601.16163).
    `clip_per_view`: each view is a clip by itself, all at the same times and of one size, for
    backbones that tell views apart (GE-Act, arXiv 2508.05635)."""
    views: tuple[View, ...] = Field(min_length=1)
    """The cameras, in the order in which they are placed."""
    columns: int = Field(2, gt=0)
    """Views in a row of a grid."""
    clip: Literal["per_view", "shared"] = "per_view"
    """Which images the VAE sees as one clip under `frame_per_view`. `per_view`: those of one view.
    `shared`: all, each repeated for a latent frame of its own, with black ones in the slots of the
    action head; every latent then depends on those before it (published for Cosmos Policy)."""
    encode: Literal["canvas", "views"] = "canvas"
    """What the VAE encodes: the canvas as one image, or every view by itself, with its latents laid
    on the canvas (LingBot-VA)."""
    fill: bool = False
    """Whether rows that are shorter than others are filled with black (DreamZero on AgiBot)."""

    @property
    def apart(self) -> int:
        """How many canvases are side by side at one moment: one, or one for each view."""
        return len(self.views) if self.layout in ("frame_per_view", "clip_per_view") else 1

    def boxes(self) -> dict[str, tuple[int, int, int, int]]:
        """view -> top, left, height, width on its canvas, in pixels."""
        if self.layout in ("frame_per_view", "clip_per_view"):
            return {view.name: (0, 0, *view.size) for view in self.views}
        boxes, top = {}, 0
        for row in self.rows():
            left = 0
            for view in row:
                boxes[view.name] = (top, left, *view.size)
                left += view.size[1]
            top += row[0].size[0]
        return boxes

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas, in pixels."""
        boxes = self.boxes().values()
        return max(t + h for t, _, h, _ in boxes), max(left + w for _, left, _, w in boxes)

    def rows(self) -> list[tuple[View, ...]]:
        """The views of each row of the canvas, from the top."""
        if self.layout == "side_by_side":
            return [self.views]
        if self.layout in ("frame_per_view", "clip_per_view"):
            return [(view,) for view in self.views]
        if self.layout in ("t_shape", "inverted_t"):
            rows = [row for row in (self.views[:1], self.views[1:]) if row]
            return rows if self.layout == "t_shape" else rows[::-1]
        n = self.columns
        return [self.views[i : i + n] for i in range(0, len(self.views), n)]

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what keeps the views from tiling a rectangle."""
        names = [view.name for view in self.views]
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield Conflict(
                between=("cameras.views",),
                why=f"two views are called {name!r}",
                hint="give each camera a name of its own",
            )
        if self.clip == "shared" and self.layout != "frame_per_view":
            yield Conflict(
                between=("cameras.clip", "cameras.layout"),
                why=f"views share a clip where each is a frame by itself, and {self.layout} lays "
                "them on one canvas",
                hint='set cameras.layout = "frame_per_view", or cameras.clip = "per_view"',
            )
        apart = self.layout in ("frame_per_view", "clip_per_view")
        if apart and len({view.size for view in self.views}) > 1:
            sizes = ", ".join(f"{v.name} {v.size[0]}x{v.size[1]}" for v in self.views)
            yield Conflict(
                between=("cameras.views",),
                why=f"views that are latent frames must be of one size, found {sizes}",
                hint=f"give them the same size: {resize_hint(self)}; or lay them on one canvas "
                "with another layout",
            )
            return
        rows = self.rows()
        for row in rows:
            if len({view.size[0] for view in row}) > 1:
                sizes = ", ".join(f"{v.name} {v.size[0]}" for v in row)
                yield Conflict(
                    between=("cameras.views",),
                    why=f"views in one row must be equally high, found {sizes}",
                    hint=f"give them the same size[0]: {resize_hint(self)}",
                )
        widths = [sum(view.size[1] for view in row) for row in rows]
        if len(set(widths)) > 1 and not self.fill:
            yield Conflict(
                between=("cameras.layout", "cameras.views"),
                why=f"rows of a {self.layout} must be equally wide, found {widths}",
                hint="change the sizes of the views so that every row has the same total width: "
                f"{resize_hint(self)}",
            )

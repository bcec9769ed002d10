"""The robot in a spec: actions, state, cameras and video."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from .parts import Conflict
from .tiling import resize_hint
from .values import Table

Normalization = Literal["min_max", "mean_std", "quantile", "none"]


class Section(Table):
    """A frozen table of a spec that refuses unknown keys."""


class ActionGroup(Section):
    """Dimensions of an action that belong together, in the order the robot takes them."""

    name: str
    """What the group is called in data sets and messages, for example `arm`."""
    size: int = Field(gt=0)
    """Values in it."""
    kind: Literal["absolute", "delta", "relative", "state"] = "absolute"
    """`absolute`: a target. `delta`: data and robot already speak in differences, so a padded step
    is zero. `relative`: data and robot speak in targets, the model learns target minus state.
    `state`: the robot's state at the same step, which is predicted with the action and is no part
    of what the robot gets (GE-Act)."""
    state: int | None = Field(None, ge=0)
    """For `relative` and `state`: index in the state where the group begins; 0 if left open for
    `state`."""
    normalization: Normalization = "min_max"
    """How its values are scaled for the network: by their range, their mean and deviation, their
    1st and 99th percentile, or not at all."""


class Scaling(Section):
    """What is done about dimensions that hardly vary, as the system that weights come from does.

    The defaults are the rule of relative constants (`wamkit.policy.normalization`).
    """

    constant_range: float = Field(0.0, ge=0)
    """Of min_max and quantile: a range below this, in physical units, counts as constant (Fast-WAM
    and ImageWAM: 1e-4). 0: what varies by no more than rounding is constant, however small its
    unit."""
    constants: Literal["center", "min", "hold"] = "center"
    """What becomes of a constant. It is not scaled, and its center (`center`) or its smallest value
    (`min`; Fast-WAM) is moved to 0; or it decodes to its smallest value, whatever the network says
    (`hold`; LeRobot, Cosmos Policy)."""
    range_epsilon: float = Field(0.0, ge=0)
    """Added to the range of min_max and quantile before it divides (LingBot-VA: 1e-6). With it no
    range is constant."""
    std_epsilon: float = Field(0.0, ge=0)
    """Added to the deviation of mean_std (Fast-WAM, LeRobot: 1e-8; GE-Act: 1e-6). With it no
    dimension of mean_std is constant."""

    def expect_used(self, rules: Collection[Normalization]) -> None:
        """Raise ValueError if `constants` is set and no dimension under `rules` can be constant."""
        ranges = self.range_epsilon > 0 and self.constant_range == 0
        if self.constants == "center" or not ranges:
            return
        if "mean_std" not in rules or self.std_epsilon > 0:
            raise ValueError(
                f'constants = "{self.constants}" has no effect, because with range_epsilon and no '
                "constant_range no range is constant; leave constants or range_epsilon out, or set "
                "constant_range"
            )


class ActionConfig(Section):
    """The action chunk a policy predicts."""

    chunk_size: int = Field(32, gt=0)
    """Actions in a chunk (N)."""
    control_hz: float = Field(10.0, gt=0)
    """Actions a second on the robot."""
    groups: tuple[ActionGroup, ...] = Field(min_length=1)
    """What an action consists of, in the order the robot takes it."""
    clip: float | None = Field(None, gt=0)
    """Normalized actions are cut to plus and minus this, those that are learned from too; "none"
    cuts nothing. Clipped values are reported by `wamkit data check`, `data stats` and `train`."""
    scaling: Scaling = Scaling()
    """Treatment of dimensions that hardly vary."""

    clip_executed: bool = True
    """Whether `clip` also cuts the actions that a robot made, on their way into the memory of an
    episode or into a prefix; LingBot-VA does not."""
    max_delay: int = Field(0, ge=0)
    """Real-time chunking: the largest delay, in actions, that is trained and may be acted with. In
    a training sample the first d actions are clean and not learned, d drawn from 0 to this; in use
    they are those that the robot executes while the chunk is computed (arXiv 2512.05964)."""
    delay_share: float = Field(1.0, gt=0, le=1)
    """Share of training samples that draw a delay from 0 to `max_delay`; the others have none. 1,
    as published, leaves 1 / (max_delay + 1) of the samples to begin without a prefix, and the
    others may learn to go on with it instead of looking; 0.5 needs far fewer updates where data are
    few."""

    @model_validator(mode="after")
    def _share_used(self) -> ActionConfig:
        if self.delay_share < 1 and not self.max_delay:
            raise ValueError(
                "delay_share is about the delays that are learned, and max_delay = 0 learns none; "
                "set max_delay, or leave delay_share out"
            )
        return self

    @model_validator(mode="after")
    def _constants_used(self) -> ActionConfig:
        self.scaling.expect_used([group.normalization for group in self.groups])
        return self

    @field_validator("clip", mode="before")
    @classmethod
    def _none(cls, clip: object) -> object:
        """TOML has no null."""
        return None if clip == "none" else clip

    @property
    def size(self) -> int:
        """Size of an action (A)."""
        return sum(group.size for group in self.groups)

    @property
    def sources(self) -> tuple[tuple[Literal["action", "state"], int], ...]:
        """Of each value of an action, where data have it: in action or state, and its index."""
        found: list[tuple[Literal["action", "state"], int]] = []
        for group in self.groups:
            if group.kind == "state":
                found += [("state", (group.state or 0) + i) for i in range(group.size)]
            else:
                start = sum(kind == "action" for kind, _ in found)
                found += [("action", start + i) for i in range(group.size)]
        return tuple(found)

    @property
    def executed(self) -> tuple[int, ...]:
        """Indices of the values that the robot gets, in the order it takes them."""
        return tuple(i for i, (kind, _) in enumerate(self.sources) if kind == "action")

    @property
    def deltas(self) -> tuple[int, ...]:
        """Which of the values that the robot gets are differences."""
        made = [group.kind for group in self.groups for _ in range(group.size)]
        return tuple(at for at, i in enumerate(self.executed) if made[i] == "delta")


class StateConfig(Section):
    """The robot's own measurements."""

    size: int = Field(0, ge=0)
    """Size of a state (P); 0 if the policy gets none."""
    normalization: Normalization = "min_max"
    """How they are scaled for the network, as that of a group of actions."""
    clip: float | None = Field(None, gt=0)
    """Normalized states are cut to plus and minus this. If left open, only values beyond those in
    the data are cut, to 5, or as far from 0 as the data go."""
    scaling: Scaling = Scaling()
    """Treatment of dimensions that hardly vary."""

    @model_validator(mode="after")
    def _constants_used(self) -> StateConfig:
        self.scaling.expect_used([self.normalization])
        return self


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
    fixed-point numbers round otherwise (GE-Act on CALVIN). `floor`: they are cut down to whole
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


class VideoConfig(Section):
    """The training clip of a policy: observed and imagined images."""

    num_frames: int = Field(9, ge=1)
    """Images in a clip, the observed ones included."""
    num_observed: int = Field(1, ge=1)
    """Images that are observed; the rest is the future."""
    observed_latents: Literal["clip", "images"] = "clip"
    """How the VAE encodes the observed images: as the beginning of the clip, or each by itself to a
    latent of its own, with the future as a clip that begins anew (GE-Act's memory frames)."""
    episode_latents: Literal["window", "stream"] = "window"
    """How a session encodes the images of an episode: behind those that it keeps, as many as in a
    training sample, all of them anew; or the new ones alone, behind what the VAE's layers remember
    of all before (`stream`: LingBot-VA). The latents are the same for as long as a sample is."""
    frame_stride: int = Field(4, gt=0)
    """Actions from one image to the next."""
    observed_stride: int | None = Field(None, gt=0)
    """Actions from one observed image to the next; `frame_stride` if left open. A larger one makes
    the observed images a memory (GE-Act)."""
    new_images: int | None = Field(None, ge=0)
    """Images that an observation of a running episode holds for each chunk; fewer than
    `num_frames` less `num_observed` are each repeated (DreamZero: 4 for 8). Left out, or 0: as
    many."""
    new_clip: Literal["continue", "apart"] = "continue"
    """How the new images of a running episode are encoded: behind those before them, as in a
    training sample, or as a clip of their own that begins with the oldest of them once more
    (DreamZero)."""
    target_downscale: int = Field(1, ge=1)
    """Factor by which imagined images are smaller than observed ones, in height and in width, and
    their latents have a grid of their own (Efficient-WAM, arXiv 2606.10040, uses 2)."""
    target_pooling: Literal["images", "latents"] = "images"
    """What is averaged to make imagined frames smaller: their images, or, as Light-WAM has it
    (arXiv 2606.08242), the latents of the whole clip."""
    target_times: Literal["continue", "restart"] = "continue"
    """Where coarser frames stand in time: after the observed ones, or at 0 again, as Efficient-WAM
    has it."""

    def moments(self, images: int) -> tuple[int, ...]:
        """When each of so many images of a clip is seen, in actions from the present one."""
        past = self.frame_stride if self.observed_stride is None else self.observed_stride
        places = (i - self.num_observed + 1 for i in range(images))
        return tuple(place * (past if place < 0 else self.frame_stride) for place in places)

    def latents(self, images: int, stride: int) -> int:
        """Latent frames that a VAE of this stride in time makes of so many images of a clip."""
        if self.observed_latents == "clip":
            return 1 + (images - 1) // stride
        future = max(0, images - self.num_observed)
        return min(images, self.num_observed) + -(-future // stride)

    @property
    def repeats(self) -> int:
        """How often each new image of a running episode counts."""
        return (self.num_frames - self.num_observed) // self.new_images if self.new_images else 1

    @model_validator(mode="after")
    def _whole_repeats(self) -> VideoConfig:
        new = self.num_frames - self.num_observed
        if self.new_images and (not new or new % self.new_images):
            raise ValueError(
                f"{new} images of a chunk are no whole multiple of new_images = {self.new_images}"
            )
        return self

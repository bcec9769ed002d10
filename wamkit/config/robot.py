"""The robot in a spec: actions, state and video."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field, field_validator, model_validator

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
    constants: Literal["center", "min", "hold", "keep"] = "center"
    """What becomes of a constant. It is not scaled, and its center (`center`) or its smallest value
    (`min`; Fast-WAM) is moved to 0; or it decodes to its smallest value, whatever the network says,
    and is encoded to -1 (`hold`; LeRobot, Cosmos Policy) or not at all (`keep`; DreamZero)."""
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

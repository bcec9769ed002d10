"""The idm paradigm: first the video, then the action from the video as far as it was imagined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility
from wamkit.errors import WamkitError

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class Idm(ParadigmConfig):
    """First the future is imagined, fully or in part, then the action is read off it.

    Fast-WAM-IDM (arXiv 2603.16666): an inverse dynamics model that shares the video's network. In
    training the action sees a copy of the future that is clean or noised at a level of its own, so
    that one checkpoint serves every stage of imagining (mimic-video's tau, arXiv 2512.15692).
    """

    source = "https://github.com/yuantianyuan01/FastWAM"

    name: Literal["idm"] = "idm"
    context_noise_prob: float = Field(0.5, ge=0, le=1)
    """Share of training samples in which the copy that the action sees is noised; it is clean in
    the others. At 0 the action can only be used with a finished video."""
    drop_future_prob: float = Field(0.0, ge=0, lt=1)
    """Share of training steps without the copy, in which the action sees the observation alone.
    Above 0 imagining is optional."""
    stop_sigma: float | Literal["first_frame"] = 0.0
    """Noise level at which imagining stops: 0 is a finished video, 1 a single pass over pure noise;
    `first_frame` imagines nothing. A caller may choose otherwise: `act(..., stop_sigma=0.3)`."""

    @field_validator("stop_sigma", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> float | str:
        return _level(value)

    @model_validator(mode="after")
    def _trained(self) -> Idm:
        self.expect(self.stop_sigma)
        return self

    def expect(self, stop_sigma: float | str) -> float | Literal["first_frame"]:
        """`stop_sigma` as one of the ways that training prepares for.

        Raises WamkitError for others.
        """
        stop = _level(stop_sigma)
        if stop == "first_frame" and not self.drop_future_prob:
            raise WamkitError(
                "the action is never trained on the observation alone: paradigm.drop_future_prob "
                "is 0",
                "train with paradigm.drop_future_prob = 0.5, or choose a level such as stop_sigma "
                "= 1",
            )
        if stop not in (0, "first_frame") and not self.context_noise_prob:
            raise WamkitError(
                f"stop_sigma = {stop} shows the action a noisy video, and "
                "paradigm.context_noise_prob is 0: it is trained on clean ones alone",
                "train with paradigm.context_noise_prob = 0.5, or choose stop_sigma = 0",
            )
        return stop

    @property
    def sees(self) -> Visibility:
        observed = frozenset({"text", "context", "state"})
        return {
            "text": frozenset({"text", "context"}),
            "context": frozenset({"text", "context"}),
            "state": observed,
            "target": observed | {"target"},
            "target'": observed | {"target'"},
            "action": observed | {"target'", "action"},
        }

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        if not self.drop_future_prob:
            return super().variants
        return {
            "first frame alone": {"stop_sigma": "first_frame"},
            "imagining": {"stop_sigma": 0.0},
        }

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        if not spec.latent_frames[1]:
            yield Conflict(
                between=("paradigm", "video.num_frames"),
                why="idm reads the action off an imagined video, and of "
                f"{spec.video.num_frames} images none is left to imagine",
                hint=f"set video.num_frames = {spec.video.num_observed + spec.time_stride}"
                if spec.backbone.traits.imagines
                else "choose a paradigm whose action needs no future, such as single_pass: "
                'set paradigm.name = "single_pass"',
            )

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        steps = 1 if spec.action_head.is_regression else spec.schedules.action.evaluations
        observed = ("text", "context", *(("state",) if spec.state.size else ()))
        stages = [Stage(roles=observed, passes=1, does="prefill the observation")]
        if self.stop_sigma != "first_frame":
            if passes := self._passes(spec):
                does = (
                    "denoise the video"
                    if not self.stop_sigma
                    else f"denoise it down to {self.stop_sigma}"
                )
                stages.append(Stage(roles=("target",), passes=passes, does=does))
            does = "read the video as it is now, keep its keys"
            stages.append(Stage(roles=("target'",), passes=1, does=does))
        does = "denoise the action against the kept keys"
        return (*stages, Stage(roles=("action",), passes=steps, does=does))

    def _passes(self, spec: PolicySpec) -> int:
        """Evaluations of the video above the level at which imagining stops."""
        if self.stop_sigma == 0:
            return spec.schedules.video.evaluations
        import torch

        from wamkit.engine.noise_schedule import NoiseSchedule

        flow = NoiseSchedule(spec.schedules.video, spec.tokens()["target"])
        return flow.init_sampler(torch.zeros(1), until=float(self.stop_sigma)).evaluations

    def build(self) -> Any:
        from .paradigm import IdmParadigm

        return IdmParadigm(self)


def _level(value: Any) -> float | Literal["first_frame"]:
    """What a user wrote as `stop_sigma`. Raises WamkitError if it is no level."""
    if value == "first_frame":
        return "first_frame"
    try:
        level = float(value)
    except (TypeError, ValueError):
        level = -1.0
    if not 0 <= level <= 1:
        raise WamkitError(
            f"stop_sigma = {value!r} is no level at which imagining can stop",
            'choose a number from 0 (a finished video) to 1 (none of it), or "first_frame"',
        )
    return level


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Idm)

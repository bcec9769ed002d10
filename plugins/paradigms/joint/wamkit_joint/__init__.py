"""The joint paradigm: video and action denoised together, in step or the video more rarely."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from wamkit.config.hooks import hookimpl
from wamkit.config.noise_schedule import TWICE
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility, everyone

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

OBSERVED = frozenset({"text", "context", "state"})


class Joint(ParadigmConfig):
    """Video and action are denoised together, each on a schedule of its own.

    Fast-WAM-Joint (arXiv 2603.16666) lets the action see the video; Efficient-WAM (arXiv
    2606.10040) lets everything see everything, and passes the video at a few action steps only.
    Noise levels of training are independent unless a schedule is `shared_sigma`.
    """

    source = "https://github.com/yuantianyuan01/FastWAM"

    name: Literal["joint"] = "joint"
    attends: Literal["action_sees_video", "mutual", "video_sees_action", "full"] = (
        "action_sees_video"
    )
    """Which of the two sees the other. Under `full` even text, context and state look at what is
    noisy, so that nothing can be computed once."""
    context: Literal["closed", "open"] = "closed"
    """Whether the observed frames see the imagined ones, as under `full`. `open`: as in GE-Act
    (arXiv 2508.05635) and most video models. `closed` lets them pass once a chunk."""
    refresh: Literal["every"] | tuple[int, ...] = "every"
    """Evaluations of the action, counted from 0, at which the video is passed again and makes a
    step; between them the action sees the video's keys of the last one (Efficient-WAM: [0, 1]). The
    video then makes as many steps as are listed here, on the grid of its schedule; the schedule's
    own `steps` hold for `every`, and for `imagine`."""
    context_level: Literal["clean", "target"] = "clean"
    """Noise level given for the observed frames. `target`: that of the imagined ones, as
    Efficient-WAM has it, though the frames are clean; only under `full` or an open context."""
    context_noise: float = Field(0.0, ge=0, lt=1)
    """In training, the largest share of noise that is mixed into the observed frames, drawn for
    each sample; their level stays that of clean ones (GE-Act: 0.01 to 0.1)."""

    @model_validator(mode="after")
    def _consistent(self) -> Joint:
        if self.refresh != "every":
            ascending = all(a < b for a, b in pairwise(self.refresh))
            if not self.refresh or self.refresh[0] != 0 or not ascending:
                raise ValueError(
                    f"refresh lists evaluations of the action from 0 on, ascending; found "
                    f"{list(self.refresh)}, write for example [0, 1]"
                )
        if self.context_level == "target" and not self.is_open:
            raise ValueError(
                'context_level = "target" changes the observed tokens at every step, and under '
                f'attends = "{self.attends}" that is computed once; write context_level = "clean" '
                'or attends = "full" or context = "open"'
            )
        return self

    @property
    def is_open(self) -> bool:
        """Whether observed tokens see what is noisy, so that they pass with it every time."""
        return self.attends == "full" or self.context == "open"

    @property
    def sees(self) -> Visibility:
        if self.attends == "full":
            return everyone({*OBSERVED, "target", "action"})
        seen_action = {"action"} if self.attends in ("mutual", "video_sees_action") else set()
        seen_target = {"target"} if self.attends in ("mutual", "action_sees_video") else set()
        seen_future = {"target"} if self.context == "open" else set()
        return {
            "text": frozenset({"text", "context"}) | seen_future,
            "context": frozenset({"text", "context"}) | seen_future,
            "state": OBSERVED,
            "target": OBSERVED | {"target"} | seen_action,
            "action": OBSERVED | {"action"} | seen_target,
        }

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        if not spec.latent_frames[1]:
            yield Conflict(
                between=("paradigm", "video.num_frames"),
                why=f"joint denoises the video with the action, and of {spec.video.num_frames} "
                "images none is left to imagine",
                hint=f"set video.num_frames = {spec.video.num_observed + spec.time_stride}"
                if spec.backbone.traits.imagines
                else "choose a paradigm whose action needs no future, such as single_pass: "
                'set paradigm.name = "single_pass"',
            )
        for part in ("video", "action"):
            if getattr(spec.schedules, part).evaluate_steps != "all":
                yield Conflict(
                    between=("paradigm", f"schedules.{part}.evaluate_steps"),
                    why="joint evaluates the action at every step, and the video as refresh says",
                    hint=f'set schedules.{part}.evaluate_steps = "all"; paradigm.refresh says when '
                    "the video is evaluated",
                )
        if self.refresh == "every":
            return
        steps = _evaluations(spec)
        if self.refresh[-1] >= steps:
            fitting = [place for place in self.refresh if place < steps]
            yield Conflict(
                between=("paradigm.refresh", "schedules.action.steps"),
                why=f"the video is to be refreshed at evaluation {self.refresh[-1]} of the action, "
                f"which has evaluations 0 to {steps - 1}",
                hint=f"set paradigm.refresh = {fitting}",
            )
        solver = spec.schedules.video.solver
        if solver in TWICE and len(self.refresh) % 2:
            yield Conflict(
                between=("paradigm.refresh", "schedules.video.solver"),
                why=f"{solver} evaluates the video twice a step, and {len(self.refresh)} refreshes "
                "are no whole number of steps",
                hint='set schedules.video.solver = "euler", or list an even number of refreshes',
            )

    def conflict_with_given_actions(self, spec: PolicySpec) -> Conflict | None:
        found = super().conflict_with_given_actions(spec)
        if found is None or self.attends in ("mutual", "video_sees_action", "full"):
            return found
        hint = 'train with paradigm.attends = "mutual", or another paradigm whose frames do'
        return found.model_copy(update={"between": ("paradigm.attends",), "hint": hint})

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        state = ("state",) if spec.state.size else ()
        observed, both = ("text", "context", *state), ("target", "action")
        stages, video, action = [], spec.schedules.video.steps, _evaluations(spec)
        if self.is_open:
            both = (*observed, *both)
        else:
            does = "prefill the observation"
            stages.append(Stage(roles=observed, passes=1, does=does))
        does = "denoise video and action together"
        if self.refresh != "every":
            together, listed = len(self.refresh), ", ".join(map(str, self.refresh))
            does += f", at evaluations {listed} of the action"
        elif self.attends == "action_sees_video" and video < action:
            together = video + 1
            does += ", the last time with the finished video"
        else:
            together = max(video, action)
        stages.append(Stage(roles=both, passes=together, does=does))
        if together < action:
            alone = tuple(role for role in both if role in ("state", "action"))
            does = "denoise the action against the video's keys of the pass before"
            passes = action - together
            stages.append(Stage(roles=alone, passes=passes, does=does, kept=("target",)))
        return tuple(stages)

    def build(self) -> Any:
        from .paradigm import JointParadigm

        return JointParadigm(self)


def _evaluations(spec: PolicySpec) -> int:
    """How often the action is evaluated; a head that regresses is asked once."""
    return 1 if spec.action_head.is_regression else spec.schedules.action.steps


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Joint)

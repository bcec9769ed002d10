"""The conditional paradigm: policy, world model, value and inverse dynamics in one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from wamkit.config.alternatives import other_heads
from wamkit.config.hooks import hookimpl
from wamkit.config.noise_schedule import joint_passes
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility, everyone

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

OBSERVED = frozenset({"text", "context", "state"})
LEARNED = {
    "policy": ("action", "video", "next_state", "value"),
    "world": ("video", "next_state", "value"),
    "value": ("value",),
    "inverse": ("action",),
}
"""kind of sample -> the parts that are noisy and learned in it; the first present leads."""
GIVEN = {
    "policy": (),
    "world": ("action",),
    "value": ("action", "video", "next_state"),
    "inverse": ("video", "next_state"),
}
"""kind of sample -> the parts that are clean in it. Others are pure noise."""


class Conditional(ParadigmConfig):
    """One network for p(a, s', V | s), p(s', V | s, a), p(V | s, a, s') and p(a | s, s').

    Which of them a training sample is follows from what of it is clean (Cosmos Policy, arXiv
    2601.16163). s is the observation, s' the target frames and the next state, V the value.
    """

    source = "https://github.com/NVlabs/cosmos-policy"

    name: Literal["conditional"] = "conditional"
    policy: float = Field(0.5, gt=0, le=1)
    """Share of training samples in which all of a, s' and V is noisy. Shares add up to 1; as
    published, half of the samples are policy samples and a quarter each world and value."""
    world: float = Field(0.25, ge=0, le=1)
    """Share in which the action is given, and s' and V are learned."""
    value: float = Field(0.25, ge=0, le=1)
    """Share in which action and s' are given, and V is learned."""
    inverse: float = Field(0.0, ge=0, le=1)
    """Share in which s' is given, V is absent, and the action is learned."""
    policy_value: bool = True
    """Whether policy samples teach the value too. Published so; its flag to leave the value out
    computes a mask that is not applied unless another flag is set, here False does it."""
    levels: Literal["shared", "independent"] = "shared"
    """`shared`: all that is noisy in a sample has one level, from the schedule of the first of
    action, video, next state and value that is noisy, and is denoised on its grid (Cosmos Policy);
    the schedules of the others give their loss weight and guidance. `independent`: every part has a
    level and a schedule of its own (UniDiffuser, Motus)."""
    context: Literal["closed", "open"] = "closed"
    """Whether observed tokens see noisy ones. `open` is published; `closed` lets it pass
    the network once a chunk, and once for all proposals of a plan."""
    act: Literal["together", "action_only"] = "together"
    """`together` denoises action, s' and V in one run, as published. `action_only`: the action sees
    none of s' and V, so that acting denoises it alone; needs a closed context."""

    @model_validator(mode="after")
    def _consistent(self) -> Conditional:
        total = self.policy + self.world + self.value + self.inverse
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"policy, world, value and inverse are shares of a batch and add up to {total:g}, "
                "not to 1"
            )
        if self.act == "action_only" and self.context == "open":
            raise ValueError(
                'act = "action_only" hides the future from the action, and an open context would '
                'show it; write context = "closed" or act = "together"'
            )
        if self.act == "action_only" and self.inverse:
            raise ValueError(
                'act = "action_only" hides the future from the action, so that inverse samples '
                'teach nothing of it; write inverse = 0 or act = "together"'
            )
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """Those of the kinds, in the order of LEARNED."""
        return self.policy, self.world, self.value, self.inverse

    @property
    def sees(self) -> Visibility:
        everything = everyone({*OBSERVED, "action", "target", "next_state", "value"})
        if self.context == "open":
            return everything
        alone = {"action": OBSERVED | {"action"}} if self.act == "action_only" else {}
        return {**everything, **dict.fromkeys(OBSERVED, OBSERVED), **alone}

    @property
    def predicts(self) -> tuple[str, ...]:
        return "action", "next_state", "value"

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        if spec.action_head.is_regression:
            yield Conflict(
                between=("paradigm", "action_head"),
                why=f"conditional tells the network actions and asks what follows, and "
                f"{spec.action_head.name} predicts vectors without reading any",
                hint="choose an action_head that denoises"
                f"{other_heads(lambda cls: not cls.is_regression)}, or another paradigm, such as "
                'single_pass: set paradigm.name = "single_pass"',
            )
        tied = [part for part in ("video", "action") if getattr(spec.schedules, part).shared_sigma]
        if self.levels == "independent" and tied:
            yield Conflict(
                between=("paradigm.levels", f"schedules.{tied[0]}.shared_sigma"),
                why=f"levels are independent, and that of the {tied[0]} is tied to another",
                hint=f'set paradigm.levels = "shared", or schedules.{tied[0]}.shared_sigma = false',
            )

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        if self.act == "action_only":
            does = "denoise the action alone"
            return (*self._first(spec), self._stage(spec, ("action",), ("action",), does))
        parts = LEARNED["policy"]
        stage = self._stage(spec, parts, parts, "denoise action, future and value together")
        return (*self._first(spec), stage)

    def future_stages(self, spec: PolicySpec) -> tuple[Stage, Stage]:
        """What `predict_future` and `estimate_value` run besides the prefill of the observation."""
        every = LEARNED["policy"]
        return (
            self._stage(spec, every, LEARNED["world"], "imagine the future of the action"),
            self._stage(spec, every, LEARNED["value"], "judge it"),
        )

    def conflict_with_given_actions(self, spec: PolicySpec) -> Conflict | None:
        if self.world:
            return None
        return Conflict(
            between=("paradigm.world",),
            why="paradigm.world is 0: no training sample taught what follows from a given action",
            hint="train with paradigm.world = 0.25 and paradigm.policy as much smaller",
        )

    def _first(self, spec: PolicySpec) -> tuple[Stage, ...]:
        """The prefill of the observation, if it is done once."""
        if self.context == "open":
            return ()
        does = "prefill the observation"
        return (Stage(roles=self._prefill_stage(spec), passes=1, does=does),)

    def _prefill_stage(self, spec: PolicySpec) -> tuple[str, ...]:
        return ("text", "context", "state") if spec.state.size else ("text", "context")

    def _stage(
        self, spec: PolicySpec, parts: tuple[str, ...], noisy: tuple[str, ...], does: str
    ) -> Stage:
        """Passes over `parts` until those that are `noisy` are denoised."""
        present = {"action", "value", *spec.predicts, *(["video"] if spec.latent_frames[1] else [])}
        given = spec.schedules
        schedules = {
            "video": given.video,
            "action": given.action,
            "next_state": given.next_state or given.action,
            "value": given.value or given.action,
        }
        together = [schedules[part] for part in noisy if part in present]
        roles = tuple("target" if part == "video" else part for part in parts if part in present)
        if self.context == "open":
            roles = (*self._prefill_stage(spec), *roles)
        passes = joint_passes(*together[:1] if self.levels == "shared" else together)
        return Stage(roles=roles, passes=passes, does=does)

    def build(self) -> Any:
        from .paradigm import ConditionalParadigm

        return ConditionalParadigm(self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Conditional)

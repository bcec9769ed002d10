"""The single-pass paradigm: imagine the future in training, act in one pass over the present."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class SinglePass(ParadigmConfig):
    """Imagine in training, one pass in use: the action sees the observation, never the future.

    Fast-WAM (arXiv 2603.16666). The future frames are there to be learned from: they see the
    observation, the action does not see them, so in use they need not exist. A checkpoint that may
    also attend to imagined frames is `idm` with `drop_future_prob` above 0.
    """

    source = "https://github.com/yuantianyuan01/FastWAM"
    system_options = ("target_context",)

    name: Literal["single_pass"] = "single_pass"
    co_training: bool = True
    """Whether the future is learned with the action. False is the paper's ablation: no target
    frame in training, and the backbone learns from the action alone."""

    target_context: Literal["observed", "downscaled"] = "observed"
    """What target frames of a smaller grid (`video.target_downscale`) see of the observation: the
    frames that the action sees, or these made as small as themselves (Light-WAM, arXiv
    2606.08242), so that the future is learned without the full-size frames."""

    @property
    def targets_see_downscaled(self) -> bool:
        return self.target_context == "downscaled" and self.co_training

    @property
    def sees(self) -> Visibility:
        known = "seen" if self.targets_see_downscaled else "context"
        return {
            "text": frozenset({"text", "context"}),
            "context": frozenset({"text", "context"}),
            "state": frozenset({"text", "context", "state"}),
            **({"seen": frozenset({"text", "seen"})} if self.targets_see_downscaled else {}),
            "target": frozenset({"text", known, "state", "target"}),
            "action": frozenset({"text", "context", "state", "action"}),
        }

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        if self.targets_see_downscaled and spec.video.target_downscale == 1:
            yield Conflict(
                between=("paradigm.target_context", "video.target_downscale"),
                why="target frames are as large as the observed ones, which cannot be made smaller "
                "for them",
                hint="set video.target_downscale = 2, or leave paradigm.target_context out",
            )

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        steps = 1 if spec.action_head.is_regression else spec.schedules.action.evaluations
        observed = ("text", "context", *(("state",) if spec.state.size else ()))
        return (
            Stage(roles=observed, passes=1, does="prefill the observation"),
            Stage(roles=("action",), passes=steps, does="denoise the action against the kept keys"),
        )

    def build(self) -> Any:
        from .paradigm import SinglePassParadigm

        return SinglePassParadigm(self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(SinglePass)

"""The single-pass paradigm: imagine the future in training, act in one pass over the present."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import ParadigmConfig, Part, Stage
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

    name: Literal["single_pass"] = "single_pass"
    co_training: bool = True
    """Whether the future is learned with the action. False is the paper's ablation: no target
    frame in training, and the backbone learns from the action alone."""

    @property
    def sees(self) -> Visibility:
        return {
            "text": frozenset({"text", "context"}),
            "context": frozenset({"text", "context"}),
            "state": frozenset({"text", "context", "state"}),
            "target": frozenset({"text", "context", "state", "target"}),
            "action": frozenset({"text", "context", "state", "action"}),
        }

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

"""The single-pass paradigm: imagine the future in training, act in one pass over the present."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from wamkit.hooks import hookimpl
from wamkit.parts import ParadigmConfig, Part, Stage
from wamkit.visibility import Visibility

if TYPE_CHECKING:
    from wamkit.spec import PolicySpec


class SinglePass(ParadigmConfig):
    """Imagine in training, one pass in use: the action sees what is observed, never the future.

    Fast-WAM (arXiv 2603.16666). The future frames are there to be learned from: they see the
    observation, the action does not see them, so in use they need not exist.
    """

    source = "https://github.com/yuantianyuan01/FastWAM"

    name: Literal["single_pass"] = "single_pass"

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
        steps = spec.schedules.action.steps
        return (
            Stage(roles=("text", "context"), passes=1, does="read what is observed, keep its keys"),
            Stage(roles=("action",), passes=steps, does="denoise the action against the kept keys"),
        )

    def build(self) -> Any:
        from .paradigm import SinglePassParadigm

        return SinglePassParadigm(self.sees)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    add(SinglePass)

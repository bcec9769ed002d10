"""A paradigm of your own, the part that imports no torch: a table, and what runs."""

from collections.abc import Callable
from typing import Any, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility

WAMKIT_API = 1


class Glance(ParadigmConfig):
    """The action looks at a future of pure noise, in which one pass already sees where it goes."""

    name: Literal["glance"] = "glance"

    @property
    def sees(self) -> Visibility:
        now = frozenset({"text", "context", "state"})
        rows = dict.fromkeys(("text", "context"), now - {"state"}) | {"state": now}
        return rows | {role: now | {"target", role} for role in ("target", "action")}

    def program(self, spec: Any) -> tuple[Stage, ...]:
        glance = Stage(roles=("text", "context", "target"), passes=1, does="glance at the future")
        steps = 1 if spec.action_head.is_regression else spec.schedules.action.steps
        return glance, Stage(roles=("action",), passes=steps, does="denoise against its keys")

    def build(self) -> Any:
        from .paradigm import GlanceParadigm

        return GlanceParadigm(self.sees)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    add(Glance)

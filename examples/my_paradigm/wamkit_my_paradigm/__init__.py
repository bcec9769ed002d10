"""A paradigm of your own, the part that imports no torch: a table, and what runs."""

from wamkit.hooks import hookimpl
from wamkit.parts import ParadigmConfig, Stage


class Glance(ParadigmConfig):
    """The action looks at a future of pure noise, in which one pass already sees where it goes."""

    name: str = "glance"

    @property
    def sees(self):
        now = {"text", "context", "state"}
        video = {role: {"text", "context"} for role in ("text", "context")} | {"state": now}
        return video | {"target": now | {"target"}, "action": now | {"target", "action"}}

    def program(self, spec):
        steps = spec.schedules.action.steps
        return (
            Stage(roles=("text", "context", "target"), passes=1, does="glance at the future"),
            Stage(roles=("action",), passes=steps, does="denoise the action against its keys"),
        )

    def build(self):
        from .paradigm import GlanceParadigm

        return GlanceParadigm(self.sees)


@hookimpl
def register(add):
    add(Glance)

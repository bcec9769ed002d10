"""The planning paradigm: the best of several proposals, by the value that is predicted for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import Field

from wamkit.config.alternatives import other_heads
from wamkit.config.hooks import hookimpl
from wamkit.config.nested import Inner, parse_paradigm, within
from wamkit.config.noise_schedule import joint_passes
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

OBSERVED = frozenset({"text", "context", "state"})


@runtime_checkable
class ValueModel(Protocol):
    """A paradigm's configuration that learns the value itself.

    What it builds has `predict_future` and `estimate_value`; `future_stages` returns their stages.
    """

    def future_stages(self, spec: PolicySpec) -> tuple[Stage, Stage]: ...


class Planning(ParadigmConfig):
    """Several proposals at once, and of them the one that is predicted to go best.

    Best of N as in Cosmos Policy (arXiv 2601.16163): futures are imagined for each proposal, and
    values predicted for each future. Any paradigm can propose; one that knows no value gets one.
    """

    source = "https://github.com/NVlabs/cosmos-policy"

    name: Literal["planning"] = "planning"
    inner: Inner = Field(default_factory=lambda: parse_paradigm("conditional"))
    """The paradigm that proposes, as a table like that of any paradigm. Left open, `conditional`,
    or `single_pass` where the action head exposes no tokens."""
    proposals: int = Field(8, gt=0)
    """Chunks to choose from (N); with 1 there is nothing to choose, and nothing is judged."""
    futures: int | None = Field(None, gt=0)
    """Futures imagined for each proposal, where the inner paradigm's target frames see the action;
    left open, 3 there, and elsewhere the one that the proposal came with, or none."""
    values: int = Field(5, gt=0)
    """Values predicted for each future."""
    rule: Literal["majority", "mean"] = "majority"
    """How futures x values become the score of a proposal. `mean`: their mean. `majority`: a value
    above -0.9 counts as success (0.05 on Cosmos Policy's scale from 0 to 1); if at least half of
    the values do, the score is the mean of those, otherwise it is -1."""
    value_share: float = Field(0.25, gt=0, lt=1)
    """Share of training samples that teach the value, action and target frames clean; read only
    where the inner paradigm learns no value itself."""

    @property
    def learns_value(self) -> bool:
        """Whether the value is this paradigm's to teach."""
        return not isinstance(self.inner, ValueModel)

    @property
    def future(self) -> Literal["foreseen", "proposed", "none"]:
        """Where the future of a proposal comes from: imagined after the action, with it, or not."""
        if "action" in self.inner.sees.get("target", ()):
            return "foreseen"
        visible = {role.rstrip("'") for role in self.inner.sees["action"]}
        return "proposed" if "target" in visible else "none"

    @property
    def sees(self) -> Visibility:
        if not self.learns_value:
            return self.inner.sees
        visible = {"none": set[str]()}.get(self.future, {"target"})
        return {**self.inner.sees, "value": OBSERVED | visible | {"next_state", "action", "value"}}

    @property
    def predicts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.inner.predicts, "value")))

    @property
    def chunks_per_sample(self) -> int:
        return self.inner.chunks_per_sample

    @property
    def max_target_frames(self) -> int | None:
        return self.inner.max_target_frames

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        return {"direct": {"proposals": 1}, "planning": {"proposals": self.proposals}}

    def resolve(self, spec: PolicySpec) -> Planning:
        inner = self.inner
        if "inner" not in self.model_fields_set and not spec.action_head.exposes_tokens:
            inner = parse_paradigm(
                "single_pass"
            )  # target frames cannot depend on an action without exposed tokens
        fitted = self.model_copy(update={"inner": inner.resolve(spec)})
        futures = self.futures or (3 if fitted.future == "foreseen" else 1)
        return fitted.model_copy(update={"futures": futures})

    def tiny(self) -> Planning:
        few: dict[str, Any] = {"proposals": 2, "futures": None, "values": 2}
        if "inner" in self.model_fields_set:
            few["inner"] = self.inner.tiny()
        return self.model_copy(update=few)

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from (within(conflict) for conflict in self.inner.conflicts(spec))
        if spec.action_head.is_regression:
            yield Conflict(
                between=("paradigm", "action_head"),
                why=f"planning chooses among proposals, and {spec.action_head.name} predicts "
                "vectors at once: all proposals would be the same",
                hint="choose an action_head that denoises"
                f"{other_heads(lambda cls: not cls.is_regression)}, or write the inner paradigm "
                f'alone: set paradigm.name = "{self.inner.name}"',
            )
        if self.inner.chunks_per_sample > 1:
            yield Conflict(
                between=("paradigm.inner",),
                why=f"planning judges one chunk, and {self.inner.name} learns from "
                f"{self.inner.chunks_per_sample} that follow each other",
                hint="choose an inner paradigm of one chunk, such as conditional",
            )
        if self.futures and self.futures > 1 and self.future != "foreseen":
            yield Conflict(
                between=("paradigm.futures", "paradigm.inner"),
                why=f"{self.futures} futures of each proposal, and the target frames of "
                f"{self.inner.name} do not see the action",
                hint="leave paradigm.futures out, or choose an inner paradigm whose future "
                "depends on the action, such as conditional",
            )

    def conflict_with_given_actions(self, spec: PolicySpec) -> Conflict | None:
        found = self.inner.conflict_with_given_actions(spec)
        return None if found is None else within(found)

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        inner, n = self.inner.program(spec), self.proposals
        if n == 1:
            return inner
        copies = f" ({n} proposals in one batch)"
        stages = [s if _is_shared_stage(s) else _with_suffix(s, copies) for s in inner]
        futures, values = self.futures or 1, self.values
        if isinstance(self.inner, ValueModel):
            future_stage, value_stage = self.inner.future_stages(spec)
        else:
            future_stage, value_stage = self._foresight(spec)
        if future_stage.passes:
            stages.append(_with_suffix(future_stage, f" ({n} x {futures} in one batch)"))
        many = f"{n} x {futures} x {values}" if future_stage.passes else f"{n} x {values}"
        return (*stages, _with_suffix(value_stage, f" ({many} in one batch)"))

    def _foresight(self, spec: PolicySpec) -> tuple[Stage, Stage]:
        """Passes after the proposals if the inner paradigm predicts no value."""
        given, imagined = spec.schedules, bool(spec.latent_frames[1])
        after = ("next_state",) if "next_state" in spec.predicts else ()
        target = ("target",) if imagined and self.future != "none" else ()
        together = [given.video] if imagined else []
        together += [given.next_state or given.action] if after else []
        steps = joint_passes(*together) if self.future == "foreseen" else 0
        return (
            Stage(
                roles=(*target, "action", *after),
                passes=steps,
                does="imagine the future of the action",
            ),
            Stage(
                roles=(*target, "action", *after, "value"),
                passes=(given.value or given.action).evaluations,
                does="judge it",
            ),
        )

    def build(self) -> Any:
        from .paradigm import PlanningParadigm

        return PlanningParadigm(self)


def _is_shared_stage(stage: Stage) -> bool:
    """True if all proposals share a stage: the prefill of the observation."""
    return set(stage.roles) <= OBSERVED


def _with_suffix(stage: Stage, suffix: str) -> Stage:
    return stage.model_copy(update={"does": stage.does + suffix})


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Planning)

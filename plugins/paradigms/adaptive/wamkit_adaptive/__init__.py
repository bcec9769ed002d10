"""The adaptive paradigm: act directly while cheap proposals agree, deliberate when they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from wamkit.config.alternatives import other_heads
from wamkit.config.hooks import hookimpl
from wamkit.config.nested import Inner, parse_paradigm, within
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.spec import parse_part
from wamkit.config.visibility import Visibility
from wamkit.errors import SpecError

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

OBSERVED = frozenset({"text", "context", "state"})


class Adaptive(ParadigmConfig):
    """Fast where several fast proposals agree, and slow only in the samples where they do not.

    Both ways are one paradigm with other settings, over the same network and the same visibility.
    No published system closes this loop; the parts are those of Fast-WAM (arXiv 2603.16666) and
    Cosmos Policy (arXiv 2601.16163).
    """

    name: Literal["adaptive"] = "adaptive"
    inner: Inner = Field(
        default_factory=lambda: parse_paradigm({"name": "idm", "drop_future_prob": 0.5})
    )
    """The paradigm that acts both ways, and that training follows, as a table like that of any
    paradigm. Left open, `idm` that has also learned to act without a future."""
    fast: dict[str, Any] | None = None
    """Settings of `inner` that are different in fast proposals, such as {proposals = 1}; left open,
    those of the first of its own ways (`wamkit compare` names them)."""
    slow: dict[str, Any] | None = None
    """Settings of `inner` that are different in deliberation; left open, those of its last way."""
    proposals: int = Field(4, gt=1)
    """Fast proposals that are compared (K), in one batch over one prefill of the observation."""
    threshold: float = Field(0.1, ge=0, allow_inf_nan=True)
    """Disagreement above which a sample deliberates: the mean over the steps and dimensions of a
    chunk of the standard deviation over proposals, of normalized actions. 0: always, without
    proposals; infinity (inf): never, with a single one. `calibrate` finds it for a budget."""

    @model_validator(mode="after")
    def _consistent(self) -> Adaptive:
        quick, thorough = self.way("fast"), self.way("slow")
        if quick == thorough:
            raise ValueError(
                f"fast and slow are the same: change a setting of {self.inner.name} in one of them"
            )
        for kind, way in (("fast", quick), ("slow", thorough)):
            if (way.sees, way.predicts) != (self.inner.sees, self.inner.predicts):
                raise ValueError(
                    f"{kind} changes who sees whom or what is predicted, and one network serves "
                    "both ways; change only how it is used"
                )
        return self

    def way(self, kind: str) -> ParadigmConfig:
        """The inner paradigm as it is used when "fast", or when "slow"."""
        variants = list(self.inner.variants.values())
        given, usual = (self.fast, variants[0]) if kind == "fast" else (self.slow, variants[-1])
        settings = usual if given is None else given
        table = {**self.inner.model_dump(mode="json"), **settings}
        try:
            return parse_part("paradigm", table)  # type: ignore[return-value]
        except SpecError as error:
            found = [_in_way(kind, conflict, settings) for conflict in error.conflicts]
            raise SpecError(found, f"paradigm.{kind}") from None

    @property
    def sees(self) -> Visibility:
        return self.inner.sees

    @property
    def predicts(self) -> tuple[str, ...]:
        return self.inner.predicts

    @property
    def chunks_per_sample(self) -> int:
        return self.inner.chunks_per_sample

    @property
    def max_target_frames(self) -> int | None:
        return self.inner.max_target_frames

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        return {"direct": {"deliberate": False}, "deliberate": {"deliberate": True}}

    def resolve(self, spec: PolicySpec) -> Adaptive:
        return self.model_copy(update={"inner": self.inner.resolve(spec)})

    def tiny(self) -> Adaptive:
        return self.model_copy(update={"inner": self.inner.tiny(), "proposals": 2})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from (within(conflict) for conflict in self.inner.conflicts(spec))
        if spec.action_head.is_regression:
            yield Conflict(
                between=("paradigm", "action_head"),
                why=f"adaptive compares proposals, and {spec.action_head.name} predicts vectors at "
                "once: they would always agree",
                hint="choose an action_head that denoises"
                f"{other_heads(lambda cls: not cls.is_regression)}, or write the inner paradigm "
                f'alone: set paradigm.name = "{self.inner.name}"',
            )
        if self.inner.chunks_per_sample > 1:
            yield Conflict(
                between=("paradigm.inner",),
                why=f"adaptive decides for one chunk, and {self.inner.name} learns from "
                f"{self.inner.chunks_per_sample} that follow each other",
                hint="choose an inner paradigm of one chunk, such as idm",
            )

    def conflict_with_given_actions(self, spec: PolicySpec) -> Conflict | None:
        found = self.way("slow").conflict_with_given_actions(spec)
        return None if found is None else within(found)

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        fast, slow = (self.way(kind).program(spec) for kind in ("fast", "slow"))
        if self.threshold == 0:
            return slow
        if self.threshold == inf:
            return fast
        copies = f" ({self.proposals} fast proposals in one batch)"
        both = [s if is_shared_stage(s) else _with_suffix(s, copies) for s in fast]
        read = {s.roles for s in fast if is_shared_stage(s)}
        rest = [s for s in slow if not (is_shared_stage(s) and s.roles in read)]
        return (*both, *(_with_suffix(s, " (for the share that deliberates)") for s in rest))

    def build(self) -> Any:
        from .paradigm import AdaptiveParadigm

        return AdaptiveParadigm(self)


def is_shared_stage(stage: Stage) -> bool:
    """True if all proposals share a stage: the prefill of the observation."""
    return set(stage.roles) <= OBSERVED


def _with_suffix(stage: Stage, suffix: str) -> Stage:
    return stage.model_copy(update={"does": stage.does + suffix})


def _in_way(kind: str, conflict: Conflict, settings: Mapping[str, Any]) -> Conflict:
    """A conflict in the settings of one way, at its place in the spec."""
    places = []
    for place in conflict.between:
        key = place.removeprefix("paradigm.")
        changed = key.partition(".")[0] in settings
        places.append(f"paradigm.{kind}.{key}" if changed else f"paradigm.inner.{key}")
    return conflict.model_copy(update={"between": tuple(places)})


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Adaptive)

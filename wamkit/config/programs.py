"""Passes of acting with a certain backbone: stages change where text has the target's level.

And the paradigms that such backbones fit (`Traits.text_level`), without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parts import Conflict, ParadigmConfig, Stage

if TYPE_CHECKING:
    from .spec import PolicySpec

OBSERVED = frozenset({"text", "context", "state"})

OTHERS = " (`wamkit list paradigm`)"


def program_of(spec: PolicySpec, paradigm: ParadigmConfig | None = None) -> tuple[Stage, ...]:
    """The program of the spec's paradigm, or of another in its place, next to the spec's backbone.

    Where text has the target's level, there is no prefill: observations pass with the target.
    """
    stages = (paradigm or spec.paradigm).program(spec)
    if not _follows(spec) or not any("target" in stage.roles for stage in stages):
        return stages
    first = next((s for s in stages if set(s.roles) <= OBSERVED), None)
    first_roles = () if first is None else first.roles
    without_target = _without_target(stages)
    found = []
    for stage in stages:
        if stage is first and not without_target:
            continue
        if "target" in stage.roles:
            roles = (*(r for r in first_roles if r not in stage.roles), *stage.roles)
            stage = stage.model_copy(update={"roles": roles})
        elif stage.kept and "state" in first_roles and "state" not in stage.roles:
            stage = stage.model_copy(update={"roles": ("state", *stage.roles)})
        found.append(stage)
    return tuple(found)


def level_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield a conflict if text at the target level has no single level, or not that of training."""
    if not _follows(spec):
        return
    backbone, paradigm = spec.backbone, spec.paradigm
    place = "backbone.text_sigma" if hasattr(backbone, "text_sigma") else "backbone"
    value = getattr(backbone, "text_sigma", None)
    clean = 'set backbone.text_sigma = "clean"' if value else "choose a backbone with clean text"
    reason = f"the text tokens of {backbone.name} have the noise level of the target frames"
    reason += f' ({place} = "{value}")' if value else ""
    copies = sorted(role for role in paradigm.sees if _is_other_target(role))
    if copies or paradigm.chunks_per_sample > 1:
        yield Conflict(
            between=(place, "paradigm"),
            why=f"{reason}, and in {paradigm.name} frames of one pass have several: those of "
            f"{', '.join(['target', *copies][:3])}",
            hint=f"{clean}, or choose a paradigm whose target frames share a level{OTHERS}",
        )
    elif backbone.traits.text_level == "target" and (
        without_target := _without_target(_program(spec))
    ):
        either = ', or "target_or_clean" to have text at 0 there, unlike in training'
        yield Conflict(
            between=(place, "paradigm"),
            why=f"{reason}, and {paradigm.name} acts in passes that have none: to "
            f"{without_target[0].does}; in training the action sees text at other levels",
            hint=clean
            + (either if value else "")
            + f", or choose a paradigm that denoises the target frames next to the action{OTHERS}",
        )


def _program(spec: PolicySpec) -> tuple[Stage, ...]:
    return spec.paradigm.program(spec)


def _follows(spec: PolicySpec) -> bool:
    """True if text tokens have the level of target frames."""
    return spec.backbone.traits.text_follows and bool(spec.latent_frames[1])


def _without_target(stages: tuple[Stage, ...]) -> list[Stage]:
    """The stages that neither pass target frames nor see those of the stage before."""
    return [
        s for s in stages if not set(s.roles) <= OBSERVED and "target" not in (*s.roles, *s.kept)
    ]


def _is_other_target(role: str) -> bool:
    """Whether a role is target frames besides "target": a copy, or those of another chunk."""
    return role.rstrip("'").partition(".")[0] == "target" and role != "target"

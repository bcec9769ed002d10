"""Installed parts that have what another lacks, named for a hint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from .parts import ActionHeadConfig, Conflict, ParadigmConfig

if TYPE_CHECKING:
    from .spec import PolicySpec


def other_heads(fits: Callable[[type[ActionHeadConfig]], bool]) -> str:
    """What to set for an installed action head of which `fits` is true; empty if there is none.

    Those come first that have tokens and weights of their own.
    """
    from .registry import registry

    found = registry().parts["action_head"].values()
    heads = [cls for cls in found if issubclass(cls, ActionHeadConfig) and fits(cls)]
    heads.sort(
        key=lambda cls: (cls.is_regression, not cls.exposes_tokens, cls.uses_backbone_blocks)
    )
    names = [f'"{cls.model_fields["name"].default}"' for cls in heads]
    return f": set action_head.name = {' or '.join(names)}" if names else ""


def heads_with_tokens() -> str:
    """`other_heads` that other tokens may attend to."""
    return other_heads(lambda cls: cls.exposes_tokens)


def backbones_with_views() -> str:
    """An installed backbone that tells views apart, with its settings; empty if there is none."""
    from .registry import registry

    for cls in registry().parts["backbone"].values():
        usual: Any = cls()  # type: ignore[call-arg]  # a registered part has a default name
        for found in (usual, *usual.variations()):
            if found.traits.views:
                own = usual.model_dump(mode="json")
                other = found.model_dump(mode="json").items()
                keys = [f"backbone.{key} = {value}" for key, value in other if own[key] != value]
                return f", such as {found.name}{' with ' if keys else ''}{' and '.join(keys)}"
    return ""


def unseen_actions(paradigm: ParadigmConfig, spec: PolicySpec) -> Conflict | None:
    """The conflict of given actions with a paradigm whose target frames never see a clean one."""
    if paradigm.chunks_per_sample > 1:
        return Conflict(
            between=("paradigm",),
            why=f"{paradigm.name} imagines chunk after chunk of an episode, each from the actions "
            "that were executed before it",
            hint=f"train with a paradigm of one chunk{_paradigms_with_action()}",
        )
    if not target_sees_action(paradigm):
        return Conflict(
            between=("paradigm",),
            why=f"the frames that {paradigm.name} imagines do not attend to the action, so that "
            "they are the same for any",
            hint=f"train with a paradigm whose frames do{_paradigms_with_action()}",
        )
    for part in ("video", "action"):
        if getattr(spec.schedules, part).shared_sigma:
            return Conflict(
                between=("paradigm", f"schedules.{part}.shared_sigma"),
                why=f"{paradigm.name} was trained with one noise level for video and action, so "
                "that imagined frames never saw a clean action",
                hint=f"train with schedules.{part}.shared_sigma = false",
            )
    return None


def target_sees_action(paradigm: ParadigmConfig) -> bool:
    """True if target frames attend to the action of their chunk."""
    return "action" in paradigm.sees.get("target", ())


def _paradigms_with_action() -> str:
    """What to set for an installed paradigm whose target frames attend to the action."""
    from .registry import registry

    classes: list[Any] = list(registry().parts["paradigm"].values())
    ready = [c for c in classes if not any(f.is_required() for f in c.model_fields.values())]
    names = [f'"{made.name}"' for made in (c() for c in ready) if target_sees_action(made)]
    return f": set paradigm.name = {' or '.join(names)}" if names else ""


def hidden_tokens(paradigm: ParadigmConfig, spec: PolicySpec) -> Iterator[Conflict]:
    """Yield a conflict if a paradigm lets others attend to actions of a head without tokens."""
    if spec.action_head.exposes_tokens:  # a long table need not be made then
        return
    numbers = {"action", "next_state", "value"}
    viewers = sorted(
        {role.partition(".")[0] for role, seen in paradigm.sees.items() if _sees_action(role, seen)}
        - numbers
    )
    if viewers:
        yield Conflict(
            between=("paradigm", "action_head"),
            why=f"{paradigm.name} lets {', '.join(viewers)} attend to the action, but "
            f"{spec.action_head.name} only reads the video and exposes no tokens",
            hint=f"choose an action_head with tokens of its own{heads_with_tokens()}, or a "
            "paradigm in which only the action looks at the action",
        )


def _sees_action(role: str, seen: Collection[str]) -> bool:
    """True if tokens that do not belong to the action head attend to those that do."""
    return role != "state" and any(r.partition(".")[0] == "action" for r in seen)

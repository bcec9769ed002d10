"""Installed parts that have what another lacks, named for a hint."""

from __future__ import annotations

from collections.abc import Callable

from .parts import ActionHeadConfig


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

"""The kinds of part there are, and the stages of a paradigm's program; no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

KINDS = ("backbone", "vae", "text_encoder", "action_head", "paradigm")
"""The kinds of part that a policy is made of."""
ALL_KINDS = (*KINDS, "environment", "importer")
"""Every kind of part: those of a policy, environments, and importers of released checkpoints."""
Kind = Literal[
    "backbone", "vae", "text_encoder", "action_head", "paradigm", "environment", "importer"
]


class Stage(BaseModel):
    """One stage of a paradigm's program: `roles` pass through the network `passes` times."""

    model_config = ConfigDict(frozen=True, defer_build=True, allow_inf_nan=False)

    roles: tuple[str, ...]
    passes: int
    does: str
    """Purpose of the stage, as a short phrase."""
    kept: tuple[str, ...] = ()
    """Roles that it sees by the keys of the stage before."""

"""The kinds of part there are, and what is said when parts do not fit; no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

HUB = "hf:"
"""What a path to a repository of the Hugging Face hub begins with."""

KINDS = ("backbone", "vae", "text_encoder", "action_head", "paradigm")
"""The kinds of part that a policy is made of."""
ALL_KINDS = (*KINDS, "environment")
"""Every kind of part there is: those of a policy, and what it is tried in."""
Kind = Literal["backbone", "vae", "text_encoder", "action_head", "paradigm", "environment"]


class Finding(BaseModel):
    """Something about a spec that one should know, and what to do about it. A value."""

    model_config = ConfigDict(frozen=True, defer_build=True, allow_inf_nan=False)

    between: tuple[str, ...]
    """The places in the spec that it is about, such as `backbone` and `vae.name`."""
    why: str
    """What was found and what was expected."""
    hint: str
    """What to change or type next."""

    def __str__(self) -> str:
        return f"{' + '.join(self.between)}: {self.why}\n    hint: {self.hint}"


class Conflict(Finding):
    """Why parts cannot be combined, and what to do about it. A value, not an exception."""

    missing: bool = False
    """True if the parts fit, and only a file or a module is not on this machine."""


class Caution(Finding):
    """Why parts that can be combined may not do what one expects: a warning, never a refusal."""


class Stage(BaseModel):
    """One step of a paradigm's program: these roles pass through the network so many times."""

    model_config = ConfigDict(frozen=True, defer_build=True, allow_inf_nan=False)

    roles: tuple[str, ...]
    passes: int
    does: str
    """What the stage is for, in a few words."""
    kept: tuple[str, ...] = ()
    """Roles that it sees by the keys of the stage before."""

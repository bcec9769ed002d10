"""The environment `pusht`: a disk pushes a T onto its outline, and a planner shows how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import EnvironmentConfig, Part

WAMKIT_API = 1


class PushT(EnvironmentConfig):
    """PushT (Chi et al., arXiv 2303.04137): push the gray T until it covers the green one.

    An action is where the disk shall go, a state where it is, both in the 512 units of the table.
    The reward is the share of the goal that is covered, of the 95 % that make a success.
    """

    license = "Apache-2.0"
    source = "https://github.com/huggingface/gym-pusht"
    requires = ("gym_pusht",)
    subject: ClassVar[str | None] = None
    suites: ClassVar[Mapping[str, tuple[str, ...]]] = {"pusht": ("",)}

    name: Literal["pusht"] = "pusht"
    size: int = Field(96, gt=0, multiple_of=2)
    """Height and width of an image."""
    max_steps: int = Field(300, gt=0)
    candidates: int = Field(80, gt=0)
    """Pushes that the expert tries in its mind before each one it makes."""

    def build(self) -> Any:
        from .environment import PushTEnvironment

        return PushTEnvironment(self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(PushT)

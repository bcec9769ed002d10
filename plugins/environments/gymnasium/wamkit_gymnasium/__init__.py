"""The environment `gymnasium`: any registered one, with a mapping from its keys to a robot's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import EnvironmentConfig, Part

WAMKIT_API = 1


class Gymnasium(EnvironmentConfig):
    """An environment registered with gymnasium that takes a vector of continuous values.

    Dots lead into dictionaries: `pixels.top` is observation["pixels"]["top"].
    """

    license = "MIT"
    source = "https://gymnasium.farama.org"
    requires = ("gymnasium",)
    subject: ClassVar[str | None] = "id"

    name: Literal["gymnasium"] = "gymnasium"
    id: str = "Pendulum-v1"
    """As `gymnasium.make` takes it; `module:Name-v0` imports the module first."""
    image_keys: dict[str, str] = Field(default_factory=dict)
    """camera -> where its image [height, width, 3] uint8 is in the observation; if there is none,
    there is one camera `render` with the rendered image."""
    size: tuple[int, int] | None = None
    """Height and width that rendered images are resized to; left open, they stay as they are."""
    state: str | None = ""
    """Where the state is in the observation: "" for the whole of it, none for no state."""
    success: str = "is_success"
    """Key of `info` that tells success. Where it is missing there is no success, only a return."""
    unit_actions: bool = False
    """Actions are given in [-1, 1] and scaled to the limits of the environment."""
    control_hz: float | None = Field(None, gt=0)
    """Control frequency in Hz; by default the `render_fps` of the environment."""
    instruction: str = "solve the task"
    """Task instruction."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of `gymnasium.make`."""

    def build(self) -> Any:
        from .environment import GymnasiumEnvironment

        return GymnasiumEnvironment(self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Gymnasium)

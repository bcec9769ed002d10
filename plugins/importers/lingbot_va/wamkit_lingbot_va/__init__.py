"""The importer `lingbot_va`: checkpoints of LingBot-VA, base and post-trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.importing import Imported, ImporterConfig, read_unverified, read_verified
from wamkit.config.parts import Part

if TYPE_CHECKING:
    from wamkit.checkpoints.source import Source

WAMKIT_API = 1

RELEASES = ("libero", "robotwin", "franka", "demo")
"""Robots whose names are in the names of their checkpoints."""


class LingBotVA(ImporterConfig):
    """LingBot-VA (arXiv 2601.21998): folders of diffusers, or the policy folder of LeRobot.

    Which robot it is for no file of the published folders says: it is taken from the name of the
    folder or repository, and its statistics are those of the published configuration. LeRobot's
    `config.json` and processor files say both.
    """

    license = "Apache-2.0"
    source = "https://github.com/robbyant/lingbot-va"
    verified: ClassVar[Mapping[str, float]] = read_verified(__file__)
    unverified: ClassVar[Mapping[str, str]] = read_unverified(__file__)

    name: Literal["lingbot_va"] = "lingbot_va"
    robot: Literal["auto", "libero", "robotwin", "franka", "demo"] = "auto"
    """Whose cameras, channels and statistics. `auto`: by the name of the checkpoint."""

    def robot_of(self, source: Source) -> str | None:
        """The robot of a checkpoint; None if its name tells none."""
        if self.robot != "auto":
            return self.robot
        name = source.path.rstrip("/").rpartition("/")[2].lower()
        found = [robot for robot in RELEASES if robot in name]
        return found[0] if len(found) == 1 else None

    def recognizes(self, source: Source) -> bool:
        from .checkpoint import folder_of

        return folder_of(source) is not None

    def read(self, source: Source) -> Imported:
        from .checkpoint import read

        return read(self, source)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Offer the importer."""
    add(LingBotVA)

"""A robot of LeRobot without hardware: it is where it was sent, and counts what it executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot

JOINTS = ("a.pos", "b.pos")


@RobotConfig.register_subclass("robot_in_memory")
@dataclass
class InMemoryRobotConfig(RobotConfig):
    """No settings."""


class InMemoryRobot(Robot):
    """Two joints and a camera `top`."""

    config_class = InMemoryRobotConfig
    name = "robot_in_memory"
    executed = 0
    is_connected = False
    is_calibrated = True
    observation_features: ClassVar[Any] = {**dict.fromkeys(JOINTS, float), "top": (32, 32, 3)}
    action_features: ClassVar[Any] = dict.fromkeys(JOINTS, float)

    def __init__(self, config: InMemoryRobotConfig) -> None:
        super().__init__(config)
        self.joints = dict.fromkeys(JOINTS, 0.0)

    def connect(self, calibrate: bool = True) -> None:
        self.is_connected = True

    def disconnect(self) -> None:
        self.is_connected = False

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_observation(self) -> dict[str, Any]:
        return {**self.joints, "top": np.zeros((32, 32, 3), np.uint8)}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        InMemoryRobot.executed += 1
        self.joints = {name: float(action[name]) for name in JOINTS}
        return action

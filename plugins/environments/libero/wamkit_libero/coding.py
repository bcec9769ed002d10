"""Actions, images and states between the simulator and the conventions of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wamkit.simulate.environment import Robot

from .conventions import Convention

CONTROL_HZ = 20


def decode_action(convention: Convention, action: NDArray[Any]) -> NDArray[Any]:
    """Convert an action [7] of the checkpoint to one of the simulator."""
    gripper = 1 - 2 * action[6:] if convention.gripper == "opens" else action[6:]
    return np.concatenate([action[:6], gripper])


def encode_action(convention: Convention, action: NDArray[Any]) -> NDArray[Any]:
    """Convert an action [7] of the simulator to one of the checkpoint."""
    gripper = (1 - action[6:]) / 2 if convention.gripper == "opens" else action[6:]
    return np.concatenate([action[:6], gripper])


def turn_image(convention: Convention, upright: NDArray[Any]) -> NDArray[Any]:
    """Turn an upright image [height, width, 3] as the checkpoint sees it; its own inverse."""
    turned = {
        "stored": upright[::-1],
        "upright": upright,
        "rotated": upright[:, ::-1],
    }[convention.images]
    return np.ascontiguousarray(turned)


def read_state(convention: Convention, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the state from the simulator's observation."""
    place, turn = values["robot0_eef_pos"], values["robot0_eef_quat"]
    gripper = values["robot0_gripper_qpos"]
    parts = {
        "pose_gripper": lambda: (place, axis_angle(turn), gripper),
        "gripper_pose": lambda: (gripper, place, turn),
        "gripper_joints": lambda: (gripper, values["robot0_joint_pos"]),
    }[convention.state]()
    return np.concatenate(parts).astype(np.float32)


def make_robot(convention: Convention, size: tuple[int, int]) -> Robot:
    """Return the specification of the robot, with images of height and width."""
    return Robot(
        cameras=dict.fromkeys(convention.cameras, size),
        state=convention.state_names,
        actions=("x", "y", "z", "rx", "ry", "rz", "gripper"),
        low=convention.low,
        high=(1.0,) * 7,
        control_hz=CONTROL_HZ,
        kind="panda",
    )


def axis_angle(turn: NDArray[Any]) -> NDArray[Any]:
    """Return axis times angle [3], the angle in [0, 2 pi], of a quaternion x, y, z, w."""
    w = float(np.clip(turn[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(turn[:3]) * 2.0 * np.arccos(w) / sine

"""How checkpoints see and act in LIBERO: cameras, orientation of images, state and gripper.

The simulator stores images bottom row first. `upright` turns them the right way up; `rotated` by
180 degrees, as OpenVLA's data have it, which is upright and mirrored. The gripper of the simulator
opens at -1 and closes at 1; `opens` is 1 to open and 0 to close, as in OpenVLA's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Orientation = Literal["stored", "upright", "rotated"]
_POSE = ("eef.x", "eef.y", "eef.z")
_GRIPPER = ("gripper.left", "gripper.right")
STATES: Mapping[str, tuple[str, ...]] = {
    "pose_gripper": (*_POSE, "eef.rx", "eef.ry", "eef.rz", *_GRIPPER),
    "gripper_pose": (*_GRIPPER, *_POSE, "eef.qx", "eef.qy", "eef.qz", "eef.qw"),
    "gripper_joints": (*_GRIPPER, *(f"joint.{number}" for number in range(1, 8))),
}
"""Kind of state -> its names: meters, an axis times an angle or a quaternion, radians."""


@dataclass(frozen=True)
class Convention:
    """One named set of settings, with its source."""

    source: str
    cameras: tuple[str, str] = ("image", "wrist_image")  # agentview and the wrist
    images: Orientation = "rotated"
    state: str = "pose_gripper"
    gripper: Literal["closes", "opens"] = "closes"  # what 1 does
    size: int = 256  # pixels
    settle_steps: int = 10  # actions without motion before an episode begins
    settle_gripper: float = -1.0  # of those actions, for the simulator
    max_steps: Mapping[str, int] = field(default_factory=dict)  # by suite, where it differs

    @property
    def low(self) -> tuple[float, ...]:
        """The smallest action [7]."""
        return (*(-1.0,) * 6, 0.0 if self.gripper == "opens" else -1.0)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state."""
        return STATES[self.state]


_SHORT, _LONG = ("libero_spatial", "libero_object", "libero_goal"), ("libero_10", "libero_90")
_LONGER = dict.fromkeys(_SHORT, 400) | dict.fromkeys(_LONG, 700)

CONVENTIONS: Mapping[str, Convention] = {
    "openpi": Convention("github.com/Physical-Intelligence/openpi, examples/libero/main.py"),
    "openvla": Convention(
        "github.com/openvla/openvla, experiments/robot/libero/run_libero_eval.py",
        gripper="opens",
    ),
    "lerobot": Convention(
        "github.com/huggingface/lerobot, src/lerobot/envs/libero.py",
        cameras=("image", "image2"),
        max_steps={"libero_spatial": 280},
    ),
    "fastwam": Convention(
        "github.com/yuantianyuan01/FastWAM, experiments/libero/eval_libero_single.py; so do "
        "ImageWAM and Light-WAM",
        gripper="opens",
        settle_steps=30,
        max_steps=_LONGER,
    ),
    "starvla": Convention(
        "github.com/starVLA/starVLA, examples/simBenchmarks/LIBERO/eval_files/eval_libero.py",
        gripper="opens",
    ),
    "cosmos_policy": Convention(
        "github.com/NVlabs/cosmos-policy, cosmos_policy/experiments/robot/libero; images are "
        "turned the right way up there, as by the spec of its checkpoints",
        images="stored",
        state="gripper_pose",
    ),
    "ge_act": Convention("github.com/AgibotTech/Genie-Envisioner, experiments/eval_libero.py"),
    "lingbot_va": Convention(
        "github.com/Robbyant/lingbot-va, evaluation/libero/client.py",
        images="upright",
        size=128,
        settle_steps=5,
        settle_gripper=0.0,
        max_steps=dict.fromkeys(_LONGER, 795),
    ),
    "libero": Convention(
        "github.com/Lifelong-Robot-Learning/LIBERO: its HDF5 demonstrations and evaluation",
        cameras=("agentview_rgb", "eye_in_hand_rgb"),
        images="stored",
        state="gripper_joints",
        size=128,
        settle_steps=5,
        settle_gripper=0.0,
        max_steps=dict.fromkeys(_LONGER, 600),
    ),
}
"""Name -> convention."""

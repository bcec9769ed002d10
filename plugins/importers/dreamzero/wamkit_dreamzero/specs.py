"""The specs of the released checkpoints, as tables; `examples/dreamzero_*.toml` are the same."""

from __future__ import annotations

from typing import Any

NEGATIVE = (
    "Vibrant colors, overexposed, static, blurry details, text, subtitles, style, artwork, "
    "painting, image, still, grayscale, dull, worst quality, low quality, JPEG artifacts, ugly, "
    "mutilated, extra fingers, bad hands, bad face, deformed, disfigured, mutated limbs, fused "
    "fingers, stagnant image, cluttered background, three legs, many people in the background, "
    "walking backwards."
)
BEGINNING = "A multi-view video shows that a robot {lower_instruction} "
END = " The robot {lower_instruction}"
PROMPTS = {
    "droid": BEGINNING + "The video is split into three views: The top view shows the camera view "
    "from the robot's wrist, the bottom-left view shows the camera view from the left exterior "
    "camera, and the bottom-right view shows the camera view from the right exterior camera. "
    "During training, one of the two bottom exterior views may be a black screen (dropped view)."
    + END,
    "agibot": BEGINNING + "The video is split into four views: The top-left view shows the camera "
    "view from the robot's head, the top-right view shows the camera view from the right hand, the "
    "bottom-left view shows the camera view from the left hand, and the bottom-right view is a "
    "black screen (inactive view)." + END,
}
EVALUATIONS: dict[int, list[int]] = {
    5: [0, 1, 2, 7, 12],
    6: [0, 1, 5, 10, 14, 15],
    7: [0, 1, 2, 6, 10, 14, 15],
    8: [0, 1, 2, 6, 10, 13, 14, 15],
}
"""How many evaluations -> the steps at which they are made; the published code's run masks."""
PARADIGM: dict[str, Any] = {
    "name": "autoregressive",
    "chunks": 4,
    "action": "mutual",
    "on_full_memory": "restart",
    "context_noise_prob": 0.0,
    "state": "block",
    "state_sees": "block_in_use",
    "state_level": "action",
    "denoise_first": True,
}
HEAD: dict[str, Any] = {
    "name": "shared_stream",
    "embedder": "mlp_sinusoid",
    "positions": "line",
    "sine_first": True,
    "final_layer": "none",
}
FLOW: dict[str, Any] = {
    "shift": 5.0,
    "timestep_sampling": "indexed",
    "loss_weighting": "bell",
    "solver": "unipc",
    "steps": 16,
    "grid_start": 0.999,
    "whole_timesteps": True,
}
SCALING: dict[str, Any] = {"constant_range": 1e-30, "constants": "keep"}
"""A value whose percentiles are equal is not normalized, and decodes to them."""
IMAGE: dict[str, Any] = {"center_share": 0.95, "rounding": "floor"}
"""Steps of an image of any camera."""
ARMS = (("left_arm", 7), ("right_arm", 7), ("left_effector", 1), ("right_effector", 1))
GROUPS: dict[str, tuple[tuple[str, bool], ...]] = {
    "droid": (("joint_position", True), ("gripper_position", False)),
    "agibot": (
        ("left_arm_joint_position", True),
        ("right_arm_joint_position", True),
        ("left_effector_position", True),
        ("right_effector_position", True),
        ("head_position", True),
        ("waist_position", True),
        ("robot_velocity", False),
    ),
}
"""robot -> the keys of its action, in order, and whether each is relative to the state."""
STATES: dict[str, tuple[str, ...]] = {
    "droid": ("joint_position", "gripper_position"),
    "agibot": tuple(key for key, _ in GROUPS["agibot"][:-1]),
}
"""robot -> the keys of its state, in order."""
TAGS = {"oxe_droid": "droid", "agibot": "agibot"}
"""Data set, as `metadata.json` calls it -> robot."""
RATES = {"droid": 15.0, "agibot": 30.0}


def cameras(robot: str, size: tuple[int, int], average: int) -> dict[str, Any]:
    """The canvas of a robot, of views of `size` (height and width) before the mean of squares."""
    height, width = (n // average for n in size)
    image = {**IMAGE, **({"average": average} if average > 1 else {})}
    plain = {"size": [height, width], **image}
    if robot == "droid":
        wrist = {"size": [height, 2 * width], "repeat_columns": 2, **image}
        return {
            "layout": "t_shape",
            "views": [
                {"name": "wrist_image_left", **wrist},
                {"name": "exterior_image_1_left", **plain},
                {"name": "exterior_image_2_left", **plain},
            ],
        }
    names = ("top_head", "hand_right", "hand_left")
    return {
        "layout": "grid",
        "columns": 2,
        "fill": True,
        "views": [{"name": name, **plain} for name in names],
    }

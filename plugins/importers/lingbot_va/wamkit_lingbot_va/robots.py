"""What the released configurations say of each robot (`wan_va/configs/va_*_cfg.py`, 7c6ffa9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CHANNELS = 30
"""Channels of an action: left pose 7, right pose 7, left joints 7, right joints 7, two grippers."""
EPSILON = 1e-6
"""Added to the width of the range of every value when it is normalized."""


@dataclass(frozen=True)
class Robot:
    """Cameras, actions, rates and memory of one configuration."""

    views: tuple[str, ...]
    size: tuple[int, int]
    """Height and width of a view, of the first where the others are half as large."""
    frames: int
    """Latent frames in a chunk."""
    actions_per_frame: int
    memory: int
    """Chunks that the memory holds, the present one included."""
    video_steps: int
    action_steps: int
    action_shift: float
    groups: tuple[tuple[str, int, str], ...]
    """Name, size and kind of each group of an action."""
    channel_map: tuple[int, ...]
    q01: tuple[float, ...]
    """Of the action's values, in the order of `channel_map`."""
    q99: tuple[float, ...]
    control_hz: float = 10.0
    inverted_t: bool = False
    """Whether the first view lies below a row of the others, which are half as large."""
    conventions: str = ""
    """Of LIBERO, as wamkit's environment names them."""
    notes: tuple[str, ...] = field(default=())

    @property
    def statistics(self) -> dict[str, list[float]]:
        """Rows as of wamkit's statistics, whose quantiles give the published formula.

        Minimum and maximum are not published: they are taken for the quantiles.
        """
        low, high = [*self.q01], [value + EPSILON for value in self.q99]
        mean = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
        std = [(b - a) / 2 for a, b in zip(low, high, strict=True)]
        return {"min": low, "max": high, "mean": mean, "std": std, "q01": low, "q99": high}


_TWO_ARMS = (*range(7), 28, *range(7, 14), 29)
_TWO_POSES = (
    ("left_pose", 7, "absolute"),
    ("left_gripper", 1, "absolute"),
    ("right_pose", 7, "absolute"),
    ("right_gripper", 1, "absolute"),
)
_RATE = "The configuration states no rate of control: actions.control_hz is a guess."

ROBOTS: Mapping[str, Robot] = {
    "libero": Robot(
        views=("image", "wrist_image"),
        size=(128, 128),
        frames=4,
        actions_per_frame=4,
        memory=15,
        video_steps=20,
        action_steps=50,
        action_shift=0.05,
        groups=(("pose", 6, "delta"), ("gripper", 1, "absolute")),
        channel_map=tuple(range(7)),
        q01=(
            -0.6589285731315613,
            -0.84375,
            -0.9375,
            -0.12107142806053162,
            -0.15964286029338837,
            -0.26571428775787354,
            -1.0,
        ),
        q99=(
            0.8999999761581421,
            0.8544642925262451,
            0.9375,
            0.17142857611179352,
            0.1842857152223587,
            0.34392857551574707,
            1.0,
        ),
        control_hz=20,
        conventions="lingbot_va",
        notes=(
            "Cameras show the simulator's images flipped top to bottom, not turned by 180.",
            "The configuration states no rate of control: actions.control_hz = 20 is LIBERO's.",
        ),
    ),
    "robotwin": Robot(
        views=("cam_high", "cam_left_wrist", "cam_right_wrist"),
        size=(256, 320),
        frames=2,
        actions_per_frame=16,
        memory=36,
        video_steps=25,
        action_steps=50,
        action_shift=1.0,
        groups=_TWO_POSES,
        channel_map=_TWO_ARMS,
        q01=(
            -0.06172713458538055,
            -3.6716461181640625e-05,
            -0.08783501386642456,
            -1,
            -1,
            -1,
            -1,
            0,
            -0.3547105032205582,
            -1.3113021850585938e-06,
            -0.11975435614585876,
            -1,
            -1,
            -1,
            -1,
            0,
        ),
        q99=(
            0.3462600058317184,
            0.39966784834861746,
            0.14745532035827624,
            1,
            1,
            1,
            1,
            1,
            0.034201726913452024,
            0.39142737388610793,
            0.1792279863357542,
            1,
            1,
            1,
            1,
            1,
        ),
        control_hz=25,
        inverted_t=True,
        notes=(
            "Actions are poses (position, quaternion x y z w) relative to those at the beginning "
            "of the episode: add positions, multiply quaternions.",
            _RATE,
        ),
    ),
    "franka": Robot(
        views=("cam_high", "cam_left_wrist", "cam_right_wrist"),
        size=(224, 320),
        frames=4,
        actions_per_frame=20,
        memory=15,
        video_steps=5,
        action_steps=10,
        action_shift=1.0,
        groups=_TWO_POSES,
        channel_map=_TWO_ARMS,
        q01=(
            0.3051295876502991,
            -0.22647984325885773,
            0.19957000017166138,
            -0.022680532187223434,
            -0.05553057789802551,
            -0.2693849802017212,
            -0.29341773986816406,
            0,
            0.2935442328453064,
            -0.4431332051753998,
            0.21256473660469055,
            -0.7962440848350525,
            -0.40816226601600647,
            -0.28359392285346985,
            -0.44507765769958496,
            0,
        ),
        q99=(
            0.7572150230407715,
            0.47736290097236633,
            0.6428080797195435,
            0.9835678935050964,
            0.9927203059196472,
            0.28041139245033264,
            0.47529348731040877,
            1,
            0.7564866304397571,
            0.04082797020673729,
            0.5355993628501885,
            0.9976375699043274,
            0.8973174452781656,
            0.6016915678977965,
            0.5027598619461056,
            1,
        ),
        control_hz=20,
        notes=(_RATE,),
    ),
    "demo": Robot(
        views=("top", "wrist"),
        size=(256, 256),
        frames=4,
        actions_per_frame=8,
        memory=15,
        video_steps=5,
        action_steps=10,
        action_shift=1.0,
        groups=(("arm", 5, "absolute"), ("gripper", 1, "absolute")),
        channel_map=(0, 1, 2, 3, 4, 28),
        q01=(
            -90.60303497314453,
            -98.73043060302734,
            -79.9008560180664,
            48.95470428466797,
            -32.794578552246094,
            0.8250824809074402,
        ),
        q99=(
            71.735107421875,
            65.89081573486328,
            92.87967681884766,
            100.0,
            22.784151077270508,
            100.0,
        ),
        control_hz=30,
        notes=(_RATE,),
    ),
}
"""Name of a configuration -> its robot."""

"""One episode as it was recorded: observations, actions, rewards and success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .environment import EnvObservation
from .timing import EpisodeTiming

STAGES = ("observation", "policy", "environment")
"""Where the time of a decision goes: taking images, choosing actions, carrying them out."""


@dataclass(frozen=True)
class Frame:
    """An observation, the action that followed it, and its result."""

    seen: EnvObservation
    action: NDArray[np.float32]  # [A] as it was intended: without the noise of an expert
    reward: float
    success: bool


@dataclass(frozen=True)
class Rollout:
    """A whole episode."""

    seed: int
    success: bool  # at any moment
    total: float  # rewards together
    steps: int
    instruction: str
    frames: tuple[Frame, ...] = ()  # empty if they were not kept
    imagined: Mapping[int, Any] = field(default_factory=dict)
    """step of a decision -> camera -> images [K, height, width, 3] uint8 expected from there."""
    last: EnvObservation | None = None  # after the last frame, if frames were kept
    timing: EpisodeTiming | None = None  # of chunks that came late

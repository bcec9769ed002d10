"""A small made-up data set that fits a spec, to try training and tools with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config.spec import PolicySpec
from ..data.lerobot_format import Feature
from ..data.writer import Writer


def record(
    folder: str | Path,
    spec: PolicySpec,
    *,
    episodes: int = 2,
    frames: int = 12,
    size: tuple[int, int] = (48, 64),
    image_format: Literal["video", "image"] = "video",
    codec: str = "h264",
    prompt: str | None = None,
) -> Path:
    """Episodes in which everything tells its time: see `frame`."""
    features = {
        f"observation.images.{view.name}": Feature(image_format, (*size, 3))
        for view in spec.cameras.views
    }
    features["action"] = Feature("float32", (len(spec.actions.executed),))
    if spec.state.size:
        features["observation.state"] = Feature("float32", (spec.state.size,))
    with Writer(folder, spec.actions.control_hz, features, "example", codec=codec) as writer:
        for episode in range(episodes):
            moments = (frame(features, episode, t) for t in range(frames))
            writer.add_episode(prompt or f"task {episode % 2}", moments)
    return Path(folder)


def frame(features: dict[str, Feature], episode: int, t: int) -> dict[str, Any]:
    """Images that brighten by 18 of 255 a frame; values episode + t / 100 + place / 10.

    Actions are a frame ahead of the state.
    """
    values: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.is_image:
            values[name] = np.full(feature.shape, (10 + 18 * t + 5 * episode) % 250, np.uint8)
        else:
            ahead = name == "action"
            values[name] = episode + (t + ahead) / 100 + np.arange(feature.shape[0]) / 10
    return values

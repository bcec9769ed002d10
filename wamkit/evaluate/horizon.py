"""Quality of imagined frames by horizon, next to the baseline that repeats the last real frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .image_quality import METRICS, frame_quality
from .intervals import mean_interval

WHO = ("policy", "copy")
"""Whose frames: those that the policy imagines, and the last real one repeated."""


class HorizonQuality:
    """Collects metrics of imagined frames of several episodes.

    An episode is the unit of a mean: its clips are averaged first, because clips of one episode
    are not independent.
    """

    def __init__(self, seconds: Sequence[float]) -> None:
        """`seconds` from the last observed frame to each imagined one."""
        self.seconds = tuple(seconds)
        self._values: dict[int, dict[int, dict[str, list[float]]]] = {}  # frame -> episode -> name

    def __len__(self) -> int:
        return len({episode for found in self._values.values() for episode in found})

    def add(
        self,
        episode: int,
        imagined: Mapping[str, Tensor],
        real: Mapping[str, Tensor],
        last: Mapping[str, Tensor],
        valid: Tensor | None = None,
    ) -> None:
        """Measure one clip of an episode, the mean over its views.

        Each is view -> [3, T, height, width] in [-1, 1]: imagined frames, the real ones of the
        same moments, and the last observed frame [3, height, width]. Frames that are not `valid`
        [T] bool are left out.
        """
        found: dict[str, list[Tensor]] = defaultdict(list)
        for view, clip in real.items():
            copied = last[view][:, None].expand_as(clip)
            both = torch.stack([imagined[view], copied]), clip.expand(2, *clip.shape)
            for name, values in frame_quality(*both).items():
                found[name].append(values)
        means = {name: torch.stack(values).mean(0) for name, values in found.items()}  # [2, T]
        for frame in range(next(iter(real.values())).shape[1]):
            if valid is not None and not bool(valid[frame]):
                continue
            kept = self._values.setdefault(frame + 1, {}).setdefault(episode, defaultdict(list))
            for name, values in means.items():
                for who, value in zip(WHO, values[:, frame].tolist(), strict=True):
                    kept[f"{name}/{who}"].append(value)

    def summary(self) -> list[dict[str, Any]]:
        """For each horizon: metric -> mean and 95 % interval over episodes, of both and paired."""
        rows = []
        for frame in sorted(self._values):
            episodes = list(self._values[frame].values())
            row: dict[str, Any] = {
                "frame": frame,
                "seconds": self.seconds[frame - 1],
                "episodes": len(episodes),
                "clips": sum(len(next(iter(found.values()))) for found in episodes),
            }
            for name in METRICS:
                means = {
                    who: np.array([np.mean(found[f"{name}/{who}"]) for found in episodes])
                    for who in WHO
                }
                row[name] = {
                    **{who: mean_interval(values.tolist()) for who, values in means.items()},
                    "difference": mean_interval((means["policy"] - means["copy"]).tolist()),
                }
            rows.append(row)
        return rows

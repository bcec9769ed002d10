"""Quality of frames imagined in closed loop, against what the cameras saw when the moment came."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..policy.policy import Policy
from ..simulate.episodes import Rollout
from ..simulate.policy_runner import to_observation
from .frames import horizons, real_views, seconds_ahead
from .horizon import HorizonQuality


class RolloutQuality:
    """Collects the quality of imagined frames of episodes that were kept with their frames."""

    def __init__(self, policy: Policy, views: Mapping[str, str]) -> None:
        """`views`: view of the policy -> camera of the environment."""
        self.policy, self.views = policy, views
        self.quality = HorizonQuality(seconds_ahead(policy.spec))

    def add(self, rollout: Rollout) -> None:
        """Measure every decision of an episode; moments after its end are left out."""
        looks = [frame.seen for frame in rollout.frames]
        if rollout.last is not None:
            looks.append(rollout.last)
        ahead = horizons(self.policy.spec)
        for step, clips in sorted(rollout.imagined.items()):
            moments = [step, *(step + steps for steps in ahead)]
            inside = torch.tensor([moment < len(looks) for moment in moments[1:]])
            if not bool(inside.any()):
                continue
            kept = [looks[min(moment, len(looks) - 1)] for moment in moments]
            seen = to_observation(self.policy.spec, self.views, [kept])
            real = real_views(self.policy, seen)
            self.quality.add(
                rollout.seed,
                {view: _to_unit(clips[camera]) for view, camera in self.views.items()},
                {view: clip[0, :, 1:] for view, clip in real.items()},
                {view: clip[0, :, 0] for view, clip in real.items()},
                inside,
            )


def _to_unit(clip: np.ndarray) -> Tensor:
    """[K, height, width, 3] uint8 to [3, K, height, width] in [-1, 1]."""
    return torch.from_numpy(clip).movedim(-1, 0).float() / 127.5 - 1

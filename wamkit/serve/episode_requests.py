"""The requests of one episode: which of its images, states and instructions a policy is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..simulate.environment import EnvObservation
from ..simulate.policy_runner import RunningEpisode

STATE, PROMPT, SEED, EXECUTED = "observation/state", "prompt", "seed", "executed"
STEP, EPISODE = "step", "episode"


class EpisodeRequests:
    """Makes openpi's requests from the looks of an episode, as a policy's metadata wants them.

    `cameras`: key of a request -> camera. A server that declares no cameras is sent the newest
    images, and the state if there is one (`state`), without a seed.
    """

    def __init__(
        self, metadata: Mapping[str, Any], cameras: Mapping[str, str], *, state: bool = True
    ) -> None:
        self.metadata, self.cameras, self.state = metadata, cameras, state
        self.declared = "cameras" in metadata
        self.stateful = bool(metadata.get("stateful"))
        self._moments: list[int] = metadata.get("image_steps", [0])
        self._stride: int = metadata.get("image_stride", 1)

    def every(self, execute_steps: int) -> int:
        """Steps from one look to the next that requests need, one each `execute_steps`."""
        if len(self._moments) == 1 and not self.stateful:
            return execute_steps
        steps = [execute_steps, *(-moment for moment in self._moments), self._stride]
        return int(np.gcd.reduce(steps))

    def make(self, one: RunningEpisode, images: int) -> dict[str, Any]:
        """The next request; `images`: how many the last reply asked for.

        With a memory, a policy gets what was executed where that is not what it replied.
        """
        looks = self._looks(one, images)
        newest = looks[-1]
        request: dict[str, Any] = {PROMPT: newest.instruction}
        for key, camera in self.cameras.items():
            clip = [seen.images[camera] for seen in looks]
            request[key] = clip[0] if len(clip) == 1 else np.stack(clip)
        if not self.declared:
            return request | ({STATE: newest.state} if self.state else {})
        if self.metadata["state"]["size"]:
            request[self.metadata["state"]["key"]] = newest.state
        if self.stateful and (executed := one.changed_chunk()) is not None:
            request[EXECUTED] = executed
        if self.metadata.get("moments"):
            request |= {STEP: one.step, EPISODE: one.seed}
        return request | {SEED: one.chunk_seed}

    def _looks(self, one: RunningEpisode, images: int) -> list[EnvObservation]:
        """The looks of a request, oldest first, as a policy in this process gets them."""
        if self.stateful and one.decisions:
            back = range(images - 1, -1, -1)
            return [one.seen[one.step - self._stride * count] for count in back]
        return [one.seen[max(one.step + moment, 0)] for moment in self._moments]

"""What was observed in the last steps of an episode, as far as the policy looks back."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from wamkit.config.spec import PolicySpec


class History:
    """The newest batches of an episode, one for each step."""

    def __init__(self, spec: PolicySpec, stateful: bool) -> None:
        video = spec.video
        self._first = video.moments(video.num_observed)
        self._every = video.frame_stride * video.repeats
        back = -min(self._first)
        if stateful:
            back = max(back, spec.actions.chunk_size)
        self._seen: deque[Mapping[str, Any]] = deque(maxlen=back + 1)

    @property
    def looks_back(self) -> bool:
        """Whether more than the newest batch is ever needed."""
        return self._seen.maxlen != 1

    def clear(self) -> None:
        """Begin a new episode."""
        self._seen.clear()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Add the batch of the next step."""
        self._seen.append(batch)

    def context(self) -> list[Mapping[str, Any]]:
        """Batches that a chunk is conditioned on, oldest first.

        As in training, the first one stands for those before the episode.
        """
        return [self._back(-moment) for moment in self._first]

    def since_last_chunk(self, count: int) -> list[Mapping[str, Any]]:
        """The `count` batches since the last chunk of a stateful policy, oldest first."""
        return [self._back(self._every * back) for back in reversed(range(count))]

    def _back(self, steps: int) -> Mapping[str, Any]:
        return self._seen[max(0, len(self._seen) - 1 - steps)]

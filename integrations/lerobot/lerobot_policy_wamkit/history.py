"""What was observed and executed in the last steps of an episode, as far as it is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError


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


class ExecutedChunk:
    """The newest chunk as it was executed, where a caller says so."""

    def __init__(self) -> None:
        self._chunk: Tensor | None = None
        self._taken = 0  # actions of it that were returned
        self._changed = False

    def begin(self, chunk: Tensor) -> None:
        """A new chunk [B, N, A] is executed from now on."""
        self._chunk, self._taken, self._changed = chunk.clone(), 0, False

    def take(self) -> None:
        """The next action of the chunk is about to be executed."""
        self._taken += 1

    def note(self, executed: Tensor) -> None:
        """The last action that was taken was executed as these ones [B, A].

        Raises WamkitError if there was none, or if they are not as many.
        """
        if self._chunk is None or not self._taken:
            raise WamkitError(
                "executed actions before the first one was selected",
                "pass them with the observation after an action",
            )
        last = self._chunk[:, self._taken - 1]
        if executed.shape != last.shape:
            raise WamkitError(
                f"executed actions {list(executed.shape)}; expected {list(last.shape)}",
                "pass what each environment executed of the last action, in physical units",
            )
        self._chunk[:, self._taken - 1] = executed.to(last)
        self._changed = True

    @property
    def changed(self) -> Tensor | None:
        """The chunk as it was executed; None if nothing was noted, so that it is as planned."""
        return self._chunk if self._changed else None

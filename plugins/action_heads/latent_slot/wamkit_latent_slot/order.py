"""Times of frames and slots on the axis of latent frames.

Cosmos Policy (arXiv 2601.16163) with two cameras, one frame a camera; `k` counts from 0:

    0      1      2      3      4       5           6       7       8
    blank  state  wrist  front  action  next_state  wrist'  front'  value

Every time follows from sizes alone, never from what else is in a pass: cached keys have the times
they would have in this one. A modality that is absent leaves its place free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["cosmos", "append"]


@dataclass(frozen=True)
class Order:
    """The order of one observation, and of any number of chunks that follow each other."""

    layout: Layout
    state: int  # 1 if there is a state, else 0
    observed: int  # latent frames that are observed
    imagined: int  # latent frames that are imagined for one chunk
    slots: int  # frames of an action chunk

    @property
    def added(self) -> int:
        """Slots of one chunk: the action's, the next state's if there is a state, the value's."""
        return self.slots + self.state + 1

    def frames(self, times: tuple[float, ...]) -> tuple[float, ...]:
        """Times of the inputs' own frames, given those without slots."""
        return tuple(self._frame(time) for time in times)

    def _frame(self, time: float) -> float:
        if time < 0:  # a leading frame
            return 1 + time
        passed = (time - self.observed) // max(1, self.imagined)
        chunk = max(passed, 0)  # whose frame this is; observed ones count to the first
        moved = time + chunk * self.added
        if self.layout == "append":
            return moved + self.state * (passed > 0)
        before_targets = (self.slots + self.state) * (passed >= 0)
        return moved + 1 + self.state + before_targets

    def vectors(self, modality: str, times: tuple[float, ...]) -> tuple[float, ...]:
        """Times of the slots of a modality, given those on its own axis.

        The slots of an action chunk follow each other there; of the others a chunk has one.
        """
        first = self._first(modality)
        if modality == "state":
            return (float(first),) * len(times)
        each = self.slots if modality == "action" else 1
        stride = self.imagined + self.added
        return tuple(first + time // each * stride + time % each for time in times)

    def _first(self, modality: str) -> int:
        """The time of the first slot of a modality."""
        state = 1 if self.layout == "cosmos" else self.observed + self.imagined
        if modality == "state":
            return state
        action = state + self.state + (self.observed if self.layout == "cosmos" else 0)
        next_state = action + self.slots
        value = next_state + self.state + (self.imagined if self.layout == "cosmos" else 0)
        return {"action": action, "next_state": next_state, "value": value}[modality]

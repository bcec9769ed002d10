"""Where frames and slots stand on the latent time axis.

Cosmos Policy (arXiv 2601.16163) with two cameras, one frame a camera; `k` counts from 0:

    0      1      2      3      4       5           6       7       8
    blank  state  wrist  front  action  next_state  wrist'  front'  value

Every place follows from sizes alone, never from what else is in a pass: keys that were kept by an
earlier pass stand where they would stand in this one. A part that is absent leaves its place free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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

    def frames(self, times: Tensor) -> Tensor:
        """Where the scene's own frames stand [T], given their places without slots [T]."""
        passed = torch.div(times - self.observed, max(1, self.imagined), rounding_mode="floor")
        chunk = passed.clamp(min=0)  # [T] whose frames these are; observed ones count to the first
        moved = times + chunk * self.added
        if self.layout == "append":
            return moved + self.state * (passed > 0)
        before_targets = (self.slots + self.state) * (passed >= 0)
        return moved + 1 + self.state + before_targets

    def numbers(self, part: str, places: Tensor) -> Tensor:
        """Where the slots of a part stand [N], given their places on its own axis [N].

        The slots of an action chunk follow each other there; of other parts a chunk has one.
        """
        first = self._first(part)
        if part == "state":
            return torch.full_like(places, first)
        each = self.slots if part == "action" else 1
        chunk = torch.div(places, each, rounding_mode="floor")
        return first + chunk * (self.imagined + self.added) + (places - chunk * each)

    def _first(self, part: str) -> int:
        """The place of the first slot of a part."""
        state = 1 if self.layout == "cosmos" else self.observed + self.imagined
        if part == "state":
            return state
        action = state + self.state + (self.observed if self.layout == "cosmos" else 0)
        next_state = action + self.slots
        value = next_state + self.state + (self.imagined if self.layout == "cosmos" else 0)
        return {"action": action, "next_state": next_state, "value": value}[part]

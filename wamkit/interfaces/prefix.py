"""The beginning of an action chunk that is decided already, as the network reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """Actions that a chunk begins with, and how strongly the chunk is held to each.

    Which actions these are is data: another delay changes tensors alone, so that neither compiled
    code nor a captured graph is made anew.
    """

    x: Tensor  # [B, N, A] normalized, as noise is added to it; 0 where nothing is given
    weight: Tensor  # [B, N, 1 or A] float32 in [0, 1]: 1 is held, 0 is free
    clean: Tensor  # [B, N] bool: tokens of level 0; all False where a token holds several actions
    mode: str = "trained"
    """`trained`: clean tokens of level 0. `freeze`: the noisy path to the prefix. `guided`: the
    velocity is corrected towards the prefix."""
    max_guidance: float = 5.0
    """The largest weight of a correction (beta)."""
    jacobian: str = "identity"
    """Of the correction: `identity`, or the exact vector-Jacobian product."""

    def map_tensors(self, rows: Callable[[Tensor], Tensor]) -> Prefix:
        """The same of other samples, which `rows` takes from every tensor."""
        return replace(self, x=rows(self.x), weight=rows(self.weight), clean=rows(self.clean))

    def delayed(self, steps: int) -> Prefix:
        """The prefix behind `steps` tokens that are free of it, cut to as many tokens as before."""

        def moved(x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(x[:, :steps]), x[:, : x.shape[1] - steps]], 1)

        return self.map_tensors(moved)

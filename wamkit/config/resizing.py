"""Validate the sizes that a stack of blocks is pruned to; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import WamkitError

if TYPE_CHECKING:
    from .parts import Traits


def expect_resizable(traits: Traits, layers: Sequence[int], num_heads: int, mlp_dim: int) -> None:
    """Raise WamkitError unless a stack can be cut to these blocks, heads and feed-forward."""
    ascending = all(a < b for a, b in pairwise(layers))
    if not layers or not ascending or layers[0] < 0 or layers[-1] >= traits.depth:
        raise WamkitError(
            f"found layers {list(layers)}, expected places in a stack of {traits.depth}, ascending",
            f"name each layer once, from 0 to {traits.depth - 1}",
        )
    group = traits.num_heads // traits.num_kv_heads
    if num_heads < 1 or num_heads % group or mlp_dim < 1:
        raise WamkitError(
            f"found {num_heads} heads and a feed-forward of {mlp_dim}, expected a multiple of "
            f"{group} heads and a positive width",
            f"the whole stack has {traits.num_heads} heads and a feed-forward of {traits.mlp_dim}",
        )

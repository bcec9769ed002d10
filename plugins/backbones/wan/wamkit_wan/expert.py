"""A narrower copy of Wan's blocks, for an action expert that shares attention with the video.

Names of all parameters are those of diffusers' `WanTransformer3DModel`, so that an expert can be
initialized from one, and published experts load.
"""

from __future__ import annotations

from torch import nn

from wamkit.config.parts import Traits

from .blocks import WanBlock
from .embedders import ConditionEmbedder, WanStack


class WanExpert(WanStack):
    """As many blocks as the backbone's, of its heads and its kind, over tokens of `width`.

    It has embedders of noise level and prompt of its own. Image tokens, where the variant has any,
    are left to the video, which it attends to.
    """

    def __init__(self, traits: Traits, width: int, mlp_dim: int) -> None:
        super().__init__(traits.head_dim, ConditionEmbedder(width, traits.text_width))
        self.blocks = nn.ModuleList(
            WanBlock(width, traits.num_heads, traits.head_dim, mlp_dim) for _ in range(traits.depth)
        )

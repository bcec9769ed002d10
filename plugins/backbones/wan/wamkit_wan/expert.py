"""A narrower copy of Wan's blocks, for an action expert that shares attention with the video.

Names of all parameters are those of diffusers' `WanTransformer3DModel`, so that an expert can be
initialized from one, and published experts load.
"""

from __future__ import annotations

from torch import Tensor, nn

from wamkit.acceleration.memo import Rungs
from wamkit.config.parts import Traits
from wamkit.interfaces.types import Text

from .blocks import Conditioning, WanBlock
from .embedders import KEEP_FLOAT32, ConditionEmbedder, turn


class WanExpert(nn.Module):
    """As many blocks as the backbone's, of its heads and its kind, over tokens of `width`.

    It has embedders of noise level and words of its own. A picture's tokens, where the variant has
    any, are left to the video, which it attends to.
    """

    keep_float32 = KEEP_FLOAT32

    def __init__(self, traits: Traits, width: int, feed_forward: int) -> None:
        super().__init__()
        self.head_size = traits.head_size
        self.condition_embedder = ConditionEmbedder(width, traits.text_width)
        self.blocks = nn.ModuleList(
            WanBlock(width, traits.heads, traits.head_size, feed_forward)
            for _ in range(traits.depth)
        )

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`, for tokens of the expert's own."""
        turned = text.memo.once((id(self), "turn"), lambda: turn(at, self.head_size), of=at)
        shape = sigma.shape[1], 1, 1
        return self.condition_embedder(sigma, turned, text, shape, text.memo, rungs)  # type: ignore[no-any-return]

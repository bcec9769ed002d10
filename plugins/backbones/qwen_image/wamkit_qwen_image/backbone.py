"""Qwen-Image's transformer between its two ends: text and frames to tokens, tokens to velocity.

Source: Qwen-Image Technical Report (arXiv:2508.02324) and diffusers'
`QwenImageTransformer2DModel` (Apache-2.0), whose names and shapes all parameters have. The network
predicts noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wamkit.engine.layers import (
    RMSNorm,
    TextCond,
    ada_norm,
    constant,
    one_plus_scale,
    patches,
    unpatched,
)
from wamkit.interfaces import Backbone, Clip
from wamkit.interfaces.dual_stream import TextLane
from wamkit.interfaces.types import Text

from .blocks import QwenSigma
from .embedders import QwenImageStack

if TYPE_CHECKING:
    from . import QwenImage


class FinalNorm(nn.Module):
    """The modulation of the last norm, under diffusers' name: scale first, then shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, level: Tensor) -> Tensor:
        """SiLU of embedded levels [R, D] to 1 + scale and shift [R, 2, D] float32."""
        rows = self.linear(level.to(self.linear.weight.dtype)).float()
        return one_plus_scale(rows.unflatten(-1, (2, -1)), 0)


class QwenImageBackbone(QwenImageStack, Backbone):
    """The architecture of Qwen-Image-Edit.

    Frames to be made are image 0; any other frame is a reference image, whose index is its place
    in time plus one. Rows and columns count from the middle of the image.
    """

    def __init__(self, config: QwenImage) -> None:
        traits = config.traits
        super().__init__(config, traits.width, config.mlp_dim, text=True)
        self.traits = traits
        width, (_, rows, columns) = traits.width, traits.patch_size
        packed = traits.latent_channels * rows * columns
        self.txt_norm = RMSNorm(traits.text_width)
        self.txt_in = nn.Linear(traits.text_width, width)
        self.img_in = nn.Linear(packed, width)
        self.silent = (
            rf"^transformer_blocks\.{traits.depth - 1}\."
            r"(attn\.(add_q_proj|norm_added_q|to_add_out)|txt_mlp)\.",
        )  # the text output of the last block is unused
        self.norm_out = FinalNorm(width)
        self.proj_out = nn.Linear(width, packed)
        self.text_blocks = tuple(TextLane(block) for block in self.transformer_blocks)  # type: ignore[arg-type]

    def embed_text(self, text: Text) -> TextCond:
        """Tokens of the text stream."""
        return TextCond(self.txt_in(self.txt_norm(text.tokens.to(self.txt_in.weight.dtype))))

    def text_positions(self, text: Text, grid: tuple[int, int, int]) -> Tensor:
        """Text tokens stand on the diagonal that leads out of the corner of the image."""
        start = max(grid[1] // 2, grid[2] // 2)
        line = torch.arange(start, start + text.length, device=text.tokens.device)
        return line.double().unsqueeze(1).expand(-1, 3)

    def positions(self, times: Tensor, clip: Clip) -> Tensor:
        given = [r or v for r, v in zip(clip.is_given, clip.is_vector, strict=True)]
        index = (times + 1) * constant(tuple(given), torch.bool, times.device)
        _, rows, columns = clip.grid
        middle = (0.0, rows - rows // 2, columns - columns // 2)
        return super().positions(index, clip) - constant(middle, torch.float64, times.device)

    def patchify(self, clip: Clip) -> Tensor:
        rows = patches(clip.latents.to(self.img_in.weight.dtype), self.traits.patch_size)
        return self.img_in(rows)  # type: ignore[no-any-return]

    def final_modulation(self, sigma: QwenSigma) -> Tensor:
        """1 + scale and shift [R, 2, D]."""
        return self.norm_out(sigma.embedding)  # type: ignore[no-any-return]

    def final_layer(self, x: Tensor, modulation: Tensor, clip: Clip) -> Tensor:
        scale, shift = modulation.unbind(2)
        y = self.proj_out(ada_norm(x, shift, scale))
        return unpatched(y, clip.grid, self.traits.patch_size[1:], channels_last=False)

"""Qwen-Image's transformer between its two ends: words and frames to tokens, tokens to velocity.

    words  [B, L, width]      --norm, linear-->     +                       +
                                                    | x [B, S, D] --blocks--|
    frames [B, C, T, h, w]    --pack, linear-->     +                       +--> velocity

Source: Qwen-Image Technical Report (arXiv:2508.02324) and diffusers'
`QwenImageTransformer2DModel` (Apache-2.0), whose names and shapes all parameters have. The network
predicts noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from wamkit.acceleration.memo import Rungs

from wamkit.engine.attention import sdpa
from wamkit.engine.layers import RMSNorm, constant, modulated
from wamkit.interfaces.text import text_level
from wamkit.interfaces.types import Frames, Segment, Text

from .blocks import Conditioning, by_frame
from .stack import QwenImageStack

if TYPE_CHECKING:
    from . import QwenImage


class WayOut(nn.Module):
    """The modulation of the last norm, under diffusers' name: scale first, then shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, level: Tensor) -> Tensor:
        """Levels [B, T, D] to scale and shift [B, T, 2 D] float32."""
        return self.linear(level).float()


class QwenImageBackbone(QwenImageStack):
    """`VideoBackbone` with the architecture of Qwen-Image-Edit.

    Frames of the roles that begin with `target` are the image in the making, image 0; any other
    frame is a reference image, whose index is its place in time plus one.
    """

    attend = staticmethod(sdpa)

    def __init__(self, config: QwenImage) -> None:
        self.traits = traits = config.traits
        super().__init__(config, traits.width, config.feed_forward, words=True)
        width, (_, rows, columns) = traits.width, traits.patch
        packed = traits.latent_channels * rows * columns
        self.txt_norm = RMSNorm(traits.text_width)
        self.txt_in = nn.Linear(traits.text_width, width)
        self.img_in = nn.Linear(packed, width)
        self.silent = (
            rf"^transformer_blocks\.{traits.depth - 1}\."
            r"(attn\.(add_q_proj|norm_added_q|to_add_out)|txt_mlp)\.",
        )  # what the last block makes of the words; nobody looks at it
        self.norm_out = WayOut(width)
        self.proj_out = nn.Linear(width, packed)

    def embed(
        self, video: Frames, text: Text | None
    ) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Words first, then frames, each frame row by row."""
        dtype = self.img_in.weight.dtype
        x = self.img_in(pack(video.z.to(dtype), self.traits.patch))  # [B, T, rows, columns, D]
        _, frames, rows, columns, _ = x.shape
        shape = frames, rows, columns
        x, segments, words = x.flatten(1, 3), video.segments(rows * columns), 0
        lanes: list[tuple[Tensor, Rungs | None]] = [(video.sigma, video.ladder)]
        if text is not None:
            y = text.memo.once(
                (id(self), "words"),
                lambda: self.txt_in(self.txt_norm(text.tokens.to(dtype))),
                of=text.tokens,
            )
            sigma, rung = text_level(text, video)
            words, lanes = y.shape[1], [(sigma, Rungs.row([(rung, 1)], sigma)), *lanes]
            x = torch.cat([y, x], 1)
            segments = (Segment("text", words, text.mask), *segments)
        turned = video.memo.once(
            (id(self), "turn", words),
            lambda: self._turn(self._places(video, words, rows, columns)),
            of=video.times,
        )
        level = self._level(lanes if words else lanes[-1:], video.memo)
        return x, segments, Conditioning(words, level, *turned, shape)

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        table = self.norm_out(cond.level.frames) if cond.level.out is None else cond.level.out
        scale, shift = table.unsqueeze(2).chunk(2, -1)  # two of [B, T, 1, D]
        y = self.proj_out(modulated(by_frame(x, cond), shift, scale))
        return unpack(y.unflatten(2, cond.shape[1:]), self.traits.patch)

    def _rows(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """As of any stack, and what the way out makes of the levels."""
        return *super()._rows(sigma), self.norm_out(self._embedded(sigma))

    def _places(self, video: Frames, words: int, rows: int, columns: int) -> Tensor:
        """Image index, row and column of each token [S, 3] float64.

        Rows and columns count from the middle of the image; words stand on the diagonal that leads
        out of its corner.
        """
        device = video.z.device
        reference = tuple([not role.startswith("target") for role in video.roles])
        index = (video.times.to(device) + 1) * constant(reference, torch.bool, device)
        line = torch.arange(words, device=device) + max(rows // 2, columns // 2)
        row = torch.arange(rows, device=device) - (rows - rows // 2)
        column = torch.arange(columns, device=device) - (columns - columns // 2)
        grid = torch.meshgrid(index.double(), row.double(), column.double(), indexing="ij")
        diagonal = line.double().unsqueeze(1).expand(-1, 3)
        return torch.cat([diagonal, torch.stack(grid, -1).flatten(0, 2)])


def pack(z: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Latents [B, C, T, h, w] to patches [B, T, rows, columns, C * patch], channels first."""
    _, height, width = patch
    z = z.unflatten(4, (-1, width)).unflatten(3, (-1, height))  # [B, C, T, rows, ., columns, .]
    return z.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)


def unpack(y: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Patches [B, T, rows, columns, C * patch] to latents [B, C, T, h, w]."""
    y = y.unflatten(4, (-1, *patch[1:])).permute(0, 4, 1, 2, 5, 3, 6)
    return y.flatten(5, 6).flatten(3, 4)

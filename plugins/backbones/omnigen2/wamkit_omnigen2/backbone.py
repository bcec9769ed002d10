"""OmniGen2's transformer between its two ends: text and frames to tokens, tokens to velocity.

    text       --norm, linear--> context refiner --------+
    references --linear, + index--> reference refiner ---| tokens --layers--> velocity
    targets    --linear--> noise refiner ----------------+

Source: OmniGen2 (arXiv:2506.18871), `omnigen2/models/transformers` in
github.com/VectorSpaceLab/OmniGen2 (Apache-2.0), whose names and shapes all parameters have. There
time runs from noise to data and the network predicts data - noise; wamkit's sigma is one minus
that time, and its velocity the negative of the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import TextCond, patches, scaled, unpatched
from wamkit.errors import WamkitError
from wamkit.interfaces import Backbone, Clip
from wamkit.interfaces.types import Text

from . import REFERENCES
from .blocks import Heads, OmniGen2Block, RotaryPositions, SigmaEmbedding, refine
from .expert import OmniGen2Stack, level_width_of

if TYPE_CHECKING:
    from . import OmniGen2


class FinalLayer(nn.Module):
    """A norm that is scaled, not shifted, and the last linear layer."""

    def __init__(self, width: int, level_width: int, patch: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(level_width, width)
        self.linear_2 = nn.Linear(width, patch)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Tokens [B, S, D] and scales [B or 1, G, D] of groups to patches [B, S, patch]."""
        y = scaled(F.layer_norm(x.float(), x.shape[-1:], eps=1e-6), scale)
        return self.linear_2(y.to(x.dtype))


class OmniGen2Backbone(OmniGen2Stack, Backbone):
    """The architecture of OmniGen2.

    Frames that are given are reference images, in their order; any other frame is an image in the
    making. Frames follow each other by the longer side of an image for each step in time, which is
    the published layout when references come first.
    """

    text_is_per_token = False  # text tokens attend to each other in the context refiner

    def __init__(self, config: OmniGen2) -> None:
        traits = config.traits
        width, (_, rows, columns) = traits.width, traits.patch_size
        super().__init__(config, width, config.mlp_dim, text_width=config.text_width)
        self.traits, self.text_blocks = traits, self.blocks
        patch, level_width = rows * columns * traits.latent_channels, level_width_of(width)
        sizes = width, Heads(traits.num_heads, traits.num_kv_heads, traits.head_dim), config.mlp_dim
        self.x_embedder = nn.Linear(patch, width)
        self.ref_image_patch_embedder = nn.Linear(patch, width)
        self.image_index_embedding = nn.Parameter(0.02 * torch.randn(REFERENCES, width))
        self.noise_refiner, self.ref_image_refiner = (
            nn.ModuleList(OmniGen2Block(*sizes, level_width) for _ in range(config.refiners))
            for _ in range(2)
        )
        self.context_refiner = nn.ModuleList(OmniGen2Block(*sizes) for _ in range(config.refiners))
        self.norm_out = FinalLayer(width, level_width, patch)

    def embed_text(self, text: Text) -> TextCond:
        tokens = self.time_caption_embed.caption_embedder(
            text.tokens.to(self.x_embedder.weight.dtype)
        )
        rotary = self.embed_positions(_text_positions(text)).rotary
        mask = text.attention_mask(tokens.dtype)
        rows = [None] * len(self.context_refiner)
        return TextCond(refine(self.context_refiner, tokens, rotary, rows, mask), mask)

    def text_positions(self, text: Text, grid: tuple[int, int, int]) -> Tensor:
        return _text_positions(text)

    def positions(self, times: Tensor, clip: Clip) -> Tensor:
        """Place in the sequence, row and column."""
        return super().positions(times * max(clip.grid[1:]), clip)

    def embed_grid(self, positions: Tensor, grid: tuple[int, int, int]) -> RotaryPositions:
        _, rows, columns = grid
        frame = F.pad(positions[: rows * columns, 1:], (1, 0))
        return RotaryPositions(
            self.embed_positions(positions).rotary, self.embed_positions(frame).rotary
        )

    def entry_modulation(self, sigma: SigmaEmbedding) -> Tensor:
        """Rows of the noise refiner's blocks, then of the reference refiner's: [R, U, 4, D]."""
        blocks = (*self.noise_refiner, *self.ref_image_refiner)
        return torch.stack([block.modulation(sigma) for block in blocks], 1)

    def patchify(self, clip: Clip) -> Tensor:
        """Every frame is refined by itself.

        Raises:
            WamkitError: There are more reference images than embeddings for them.
        """
        z = clip.latents.to(self.x_embedder.weight.dtype)
        z = patches(z, self.traits.patch_size, channels_last=True)
        z = z.unflatten(1, (clip.grid[0], -1))  # [B, T, n, patch]
        targets, references = (
            [i for i, given in enumerate(clip.is_given) if given is wanted]
            for wanted in (False, True)
        )
        count = len(self.noise_refiner)
        found: dict[int, Tensor] = {}
        if targets:
            x = self.x_embedder(_select_frames(z, targets))
            rows = clip.modulation[:, :, :count]
            found |= self._refine_frames(self.noise_refiner, x, rows, targets, clip)
        if references:
            x = self.ref_image_patch_embedder(_select_frames(z, references))
            x = x + self._indexes([clip.ranks[i] for i in references])
            rows = clip.modulation[:, :, count:]
            found |= self._refine_frames(self.ref_image_refiner, x, rows, references, clip)
        return torch.cat([found[i] for i in range(clip.grid[0])], 1)

    def _refine_frames(
        self, blocks: nn.ModuleList, x: Tensor, rows: Tensor, frames: Sequence[int], clip: Clip
    ) -> dict[int, Tensor]:
        """Tokens [B, T', n, D] of some frames, refined: frame -> [B, n, D]."""
        if rows.shape[:2] != (1, 1):  # a frame is a sample here
            rows = _select_frames(rows.expand(len(x), clip.grid[0], *rows.shape[2:]), frames)
            rows = rows.flatten(0, 1).unsqueeze(1)
        x = refine(blocks, x.flatten(0, 1), clip.positions.frame, rows.unbind(2))
        return dict(zip(frames, x.unflatten(0, (-1, len(frames))).unbind(1), strict=True))

    def _indexes(self, ranks: Sequence[int]) -> Tensor:
        """The embeddings [references, 1, D] that distinguish the frames of one role."""
        if max(ranks) >= REFERENCES:
            raise WamkitError(
                f"found {max(ranks) + 1} reference images in a pass; omnigen2 tells at most "
                f"{REFERENCES} apart",
                "give fewer context frames",
            )
        return torch.stack([self.image_index_embedding[rank] for rank in ranks]).unsqueeze(1)

    def final_modulation(self, sigma: SigmaEmbedding) -> Tensor:
        """1 + scale [R, D]."""
        linear = self.norm_out.linear_1
        return 1 + linear(sigma.embedding.to(linear.weight.dtype)).float()

    def final_layer(self, x: Tensor, modulation: Tensor, clip: Clip) -> Tensor:
        return -unpatched(self.norm_out(x, modulation), clip.grid, self.traits.patch_size[1:])


def _text_positions(text: Text) -> Tensor:
    """Place, row and column of text tokens [B or 1, L, 3]: they end where the first frame begins.

    Padding is skipped, and never attended to.
    """
    valid = text.valid
    if valid is None:
        valid = torch.ones_like(text.tokens[:1, :, 0], dtype=torch.bool)
    index = valid.cumsum(1) - 1
    before = index - valid.sum(1, keepdim=True)
    return torch.stack([before, index, index], -1).double()


def _select_frames(x: Tensor, frames: Sequence[int]) -> Tensor:
    """Some of the frames of x [B, T, ...]."""
    return torch.stack([x[:, i] for i in frames], 1)

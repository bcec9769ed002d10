"""CLIP's text tower as FLUX.1 reads it: one vector for a whole prompt.

    prompt --> tokens, positions --> causal layers --> norm --> the vector at the end of the text

Source: Radford et al. 2021 (arXiv:2103.00020), CLIP ViT-L/14, under the parameter names of
transformers' `CLIPTextModel`. Prompts become token ids through open_clip's tokenizer, which brings
its vocabulary along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from wamkit.checkpoints.safetensors import CheckpointLayout
from wamkit.engine.clip_layers import Encoder, quick_gelu
from wamkit.engine.layers import LayerNorm

LAYOUTS = (
    CheckpointLayout(
        "transformers",
        r"(^|\.)embeddings\.token_embedding\.weight$",
        ((r"^text_model\.", ""),),
        drop=(r"embeddings\.position_ids$",),
    ),
)
VOCABULARY = 49_408


class Shape(NamedTuple):
    """Sizes of a text tower; the published one is that of CLIP ViT-L/14."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    length: int = 77  # tokens, the two that begin and end a text included


def tiny(width: int) -> Shape:
    """Two layers, for tests."""
    return Shape(width, layers=2, heads=2)


class Embeddings(nn.Module):
    """Tokens with learned positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, shape.width)
        self.position_embedding = nn.Embedding(shape.length, shape.width)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L] to [B, L, D]."""
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class PooledText(nn.Module):
    """`Conditioner` that reads the prompt."""

    reads: Literal["image", "text"] = "text"

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.length = shape.length
        self.embeddings = Embeddings(shape)
        self.encoder = Encoder(shape.layers, shape.width, shape.heads, quick_gelu, causal=True)
        self.final_layer_norm = LayerNorm(shape.width)
        self.tokenizer = SimpleTokenizer(context_length=shape.length)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str], image: Tensor | None) -> Tensor:
        """B prompts to [B, 1, D]; the image is ignored.

        Tokens of a prompt beyond 77 are cut off, as in the published pipeline.
        """
        weight = self.final_layer_norm.weight
        ids = self.tokenizer(list(prompts)).to(weight.device)  # [B, L]
        x = self.final_layer_norm(self.encoder(self.embeddings(ids)))
        ends = ids.eq(self.tokenizer.eot_token_id).int().argmax(1)
        # Layers are causal, so what stands after the end changes nothing.
        return x[torch.arange(len(ids), device=weight.device), ends][:, None]

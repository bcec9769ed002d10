"""CLIP's image tower as Wan 2.1 image-to-video reads it: the tokens before the last layer.

    image --resize--> patches --+--> norm --> all layers but the last --> [B, 1 + patches, 1280]
                        class ----+

Source: `wan/modules/clip.py` in github.com/Wan-Video/Wan2.1 (Apache-2.0), under the parameter names
of transformers' `CLIPVisionModel`. The last layer and the norm behind it are never computed and
have no weights here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.checkpoints.safetensors import CheckpointLayout
from wamkit.engine.clip_layers import Encoder
from wamkit.engine.layers import LayerNorm, constant

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Shape(NamedTuple):
    """Sizes of an image tower; the published one is ViT-H/14."""

    width: int = 1280
    layers: int = 32  # the last of which is left out
    heads: int = 16
    patch: int = 14  # pixels
    image: int = 224  # pixels


def tiny(width: int) -> Shape:
    """Two layers over four patches, for tests."""
    return Shape(width, layers=2, heads=2, image=28)


def layouts(shape: Shape) -> tuple[CheckpointLayout, ...]:
    """transformers' names, with or without the prefix of its versions before 5."""
    last = rf"encoder\.layers\.{shape.layers - 1}\."
    return (
        CheckpointLayout(
            "transformers",
            r"(^|\.)embeddings\.class_embedding$",
            ((r"^vision_model\.", ""),),
            drop=(last, r"post_layernorm\.", r"embeddings\.position_ids$"),
        ),
    )


class Embeddings(nn.Module):
    """A class token and patches, with learned positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(shape.width) / shape.width**0.5)
        self.patch_embedding = nn.Conv2d(
            3, shape.width, shape.patch, stride=shape.patch, bias=False
        )
        tokens = 1 + (shape.image // shape.patch) ** 2
        self.position_embedding = nn.Embedding(tokens, shape.width)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, image, image] to [B, 1 + patches, D]."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class ImageEncoder(nn.Module):
    """`Conditioner` that looks at the image."""

    reads: Literal["image", "text"] = "image"
    keep_float32 = ("",)  # as in diffusers' pipeline, independent of the dtype of the rest

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.size = shape.image
        self.embeddings = Embeddings(shape)
        self.pre_layrnorm = LayerNorm(shape.width)
        self.encoder = Encoder(shape.layers - 1, shape.width, shape.heads, F.gelu, causal=False)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str], image: Tensor) -> Tensor:
        """[B, 3, height, width] in [-1, 1] to [B, 1 + patches, D]; prompts are ignored.

        The image is squeezed to a square, as in `wan/image2video.py`; diffusers cuts it out.
        """
        size, dtype = (self.size, self.size), self.pre_layrnorm.weight.dtype
        square = F.interpolate(image.float(), size, mode="bicubic", align_corners=False)
        mean, std = (constant(x, square.dtype, square.device) for x in (MEAN, STD))
        pixels = (0.5 * square + 0.5 - mean[:, None, None]) / std[:, None, None]
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels.to(dtype))))

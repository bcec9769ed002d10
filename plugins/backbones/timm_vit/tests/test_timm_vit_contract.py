"""Vision transformers keep the contract of a backbone, with each kind of positions."""

from __future__ import annotations

from wamkit_timm_vit import TimmViT

from wamkit.testing import *  # noqa: F403

PARTS = [
    TimmViT(variant="tiny"),
    TimmViT(variant="vit_small_patch16_dinov3"),
    TimmViT(variant="vit_base_patch16_siglip_224"),
]

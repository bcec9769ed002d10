"""Tokens that are no images pass a vision transformer's blocks next to the images'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wamkit_timm_vit import TimmViT

from wamkit.testing.backbone_contract import STACK, placed_by_hand

CONFIGS: dict[str, Any] = {
    variant: TimmViT.model_validate({"variant": variant, "patch_size": 4}).tiny()
    for variant in ("vit_base_patch14_dinov2", "vit_base_patch16_siglip_224")
}
CONFIGS["vit_base_patch16_dinov3"] = TimmViT(variant="vit_base_patch16_dinov3", patch_size=4).tiny()
cases = pytest.mark.parametrize("case", CONFIGS)


@cases
def test_tokens_of_an_image_placed_by_hand_give_the_result_of_the_images(case: str) -> None:
    extra = CONFIGS[case].traits.frame_tokens

    def places(times: Tensor, rows: int, columns: int) -> Tensor:
        """Rows and columns in [-1, 1]; class and register tokens in the middle."""
        axes = [(2 * torch.arange(n) + 1) / n - 1 for n in (rows, columns)]
        image = torch.cartesian_prod(torch.ones(1), *axes)
        return F.pad(image, (0, 0, extra, 0)).repeat(len(times), 1)

    placed_by_hand(CONFIGS[case], places)


@cases
@pytest.mark.parametrize("check", STACK)
def test_other_tokens_and_other_sizes(case: str, check: Any) -> None:
    check(CONFIGS[case])

"""The block of GE-Act: sizes, names, and numbers of the same expert put together from diffusers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from wamkit_reader import Reader

from wamkit.checkpoints import safetensors as weights
from wamkit.config.registry import registry
from wamkit.engine.kv_cache import KVCache
from wamkit.interfaces.types import ModelInputs, NoisyVectors, Text
from wamkit.testing.fixtures import run_head, spec_with
from wamkit.testing.parity import float64, same_values, to_float64

pytest.importorskip("diffusers")


def sizes_of(backbone: str) -> Any:
    return spec_with(backbone=backbone, paradigm="single_pass").sizes


def test_the_published_expert_has_its_published_size() -> None:
    ltx = registry().parts["backbone"]["ltx"](variant="0.9-2b")  # type: ignore[call-arg]
    sizes = sizes_of("ltx").model_copy(update={"backbone": ltx, "action": 14, "state": 14})
    with torch.device("meta"):
        head = Reader().build(sizes)
    assert len(head.blocks) == 28 and head.config.width == 512
    # 28 blocks of 1050624 + 1024 (self), 2623488 + 1024 (cross), 2099712 (feed-forward), 6 * 512.
    block = 4 * (512 * 512 + 512) + 2 * 512
    block += 2 * (512 * 512 + 512) + 2 * (2048 * 512 + 512) + 2 * 512
    block += 2 * 512 * 2048 + 2048 + 512 + 6 * 512
    assert sum(p.numel() for p in head.blocks.parameters()) == 28 * block
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(0.16e9, rel=0.03)


class Published(nn.Module):
    """An action expert under GE-Act's names, of diffusers' layers; 2 heads of 8, 2 blocks."""

    def __init__(self, source: int) -> None:
        from diffusers.models.attention import FeedForward
        from diffusers.models.normalization import AdaLayerNormSingle
        from diffusers.models.transformers.transformer_ltx import LTXAttention

        super().__init__()
        self.action_proj_in, self.action_proj_out = nn.Linear(4, 16), nn.Linear(16, 4)
        self.action_scale_shift_table = nn.Parameter(torch.randn(2, 16))
        self.action_time_embed = AdaLayerNormSingle(16, use_additional_conditions=False)
        self.action_blocks = nn.ModuleList()
        for _ in range(2):
            block = nn.Module()
            block.scale_shift_table = nn.Parameter(torch.randn(6, 16))
            block.attn1 = LTXAttention(16, heads=2, kv_heads=2, dim_head=8)
            block.attn2 = LTXAttention(
                16, heads=2, kv_heads=2, dim_head=8, cross_attention_dim=source
            )
            block.ff = FeedForward(16, activation_fn="gelu-approximate")
            self.action_blocks.append(block)

    def forward(self, x: Tensor, sigma: Tensor, hidden: list[Tensor]) -> Tensor:
        x, count = self.action_proj_in(x), x.shape[1]
        time, level = self.action_time_embed(1000 * sigma, hidden_dtype=x.dtype)
        place = torch.arange(count).double()[:, None] / 57 * 2 - 1
        angle = (10_000 ** torch.linspace(0, 1, 8).double()) * math.pi / 2 * place
        angle = angle.repeat_interleave(2, 1)[None]
        turn = angle.cos().float(), angle.sin().float()
        norm = nn.RMSNorm(16, eps=1e-6, elementwise_affine=False)
        for block, states in zip(self.action_blocks, hidden, strict=True):
            table: Any = block.scale_shift_table
            shift, scale, gate, shift2, scale2, gate2 = (table + time.reshape(-1, 1, 6, 16)).unbind(
                2
            )
            x = x + gate * block.attn1(norm(x) * (1 + scale) + shift, None, image_rotary_emb=turn)  # type: ignore[operator]
            x = x + block.attn2(x, states)  # type: ignore[operator]
            x = x + gate2 * block.ff(norm(x) * (1 + scale2) + shift2)  # type: ignore[operator]
        shift, scale = (self.action_scale_shift_table + level[:, None, None]).unbind(2)
        x = nn.functional.layer_norm(x, (16,), eps=1e-6) * (1 + scale) + shift
        return self.action_proj_out(x)  # type: ignore[no-any-return]


@torch.no_grad()
@float64()
def test_weights_under_published_names_give_the_published_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = sizes_of("toy")
    theirs = Published(sizes.traits.width)
    for p in theirs.parameters():
        p.copy_(torch.randn_like(p) * 0.3)
    theirs.transformer_blocks = nn.ModuleList([nn.Linear(2, 2)])  # the video, in the same file
    weights.save(theirs, tmp_path / "ge_act.safetensors")
    config = Reader(
        num_heads=2,
        head_dim=8,
        mlp_dim=64,
        state="none",
        weights=str(tmp_path / "ge_act.safetensors"),
    )
    head = to_float64(config.build(sizes))
    x, sigma = torch.randn(2, 6, 4), torch.tensor([0.3, 0.8])
    hidden = [torch.randn(2, 5, sizes.traits.width) for _ in range(2)]
    inputs = ModelInputs(
        Text(torch.randn(2, 3, sizes.traits.text_width)), action=NoisyVectors(x, sigma)
    )
    cache = KVCache([], [{"context": states} for states in hidden], {"context": 0.0})
    model = spec_with(backbone="toy").backbone.build()
    found = run_head(head, model, inputs, {"action": ["context"]}, cache).action
    assert found is not None
    same_values(found, theirs(x, sigma, hidden))

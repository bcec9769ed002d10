"""Cosmos as a part: the contract, published sizes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from wamkit_cosmos import SIZES, Cosmos
from wamkit_cosmos.backbone import CosmosBackbone

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import parameters
from wamkit.config.parts import Weighted
from wamkit.config.spec import parse_part
from wamkit.engine.levels import CLEAN, Level
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import denoise
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, Text
from wamkit.testing import *  # noqa: F403
from wamkit.testing.parity import same_shapes

PARTS = [Cosmos(), Cosmos(variant="predict2.5-2b")]

PUBLISHED = {  # parameters, tensors
    "predict2-2b": (1_956_413_440, 567),
    "predict2-14b": (14_265_285_632, 727),
    "predict2.5-2b": (2_059_174_912, 569),
}
TINY = Cosmos(variant="tiny", layers=2)
FILE = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes_have_the_names_and_shapes_of_diffusers(variant: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    config = Cosmos.model_validate({"variant": variant})
    with torch.device("meta"):
        ours = CosmosBackbone(config)
        theirs = diffusers.CosmosTransformer3DModel(
            in_channels=17,
            out_channels=16,
            num_attention_heads=config.num_heads,
            attention_head_dim=128,
            num_layers=config.layers,
            mlp_ratio=4.0,
            text_embed_dim=1024,
            adaln_lora_dim=256,
            extra_pos_embed_type=None,
            use_crossattn_projection="2.5" in variant,
            crossattn_proj_in_channels=100_352,
            encoder_hidden_states_channels=1024,
        )
    same_shapes(ours, theirs)
    assert (parameters(ours), len(ours.state_dict())) == PUBLISHED[variant]


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    assert Cosmos(variant="predict2.5-2b").model_dump(exclude=set(Weighted.model_fields)) == {
        "variant": "predict2.5-2b", "context_sigma": 1e-4, "fps": None, "qk_norm_eps": 1e-6,
        "given_frames": "observed",
        **SIZES["predict2.5-2b"],
    }  # fmt: skip
    assert Cosmos(variant="predict2-14b", layers=12).num_heads == 40
    assert Cosmos.model_validate({"layers": None}).layers == SIZES["predict2-2b"]["layers"]
    written = Cosmos(variant="predict2-14b", rope_scale=(1, 2, 2), fps=10)
    assert parse_part("backbone", written.model_dump(mode="json")) == written
    with pytest.raises(WamkitError, match=r"backbone\.variant: input should be 'predict2-2b'"):
        parse_part("backbone", {"name": "cosmos", "variant": "predict1"})


@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_tiny_form_of_a_variant_takes_the_same_latents_and_kind_of_text(variant: str) -> None:
    config = Cosmos.model_validate({"variant": variant})
    tiny = config.tiny()
    assert tiny.traits.latent_channels == config.traits.latent_channels == 16
    assert (tiny.text_stack > 0) == (config.text_stack > 0)
    assert tiny.rope_scale == config.rope_scale
    assert parameters(tiny.build()) < 500_000


def test_every_problem_of_a_file_is_listed_by_name(tmp_path: Path) -> None:
    state = dict(TINY.build().state_dict())
    del state["transformer_blocks.1.attn2.norm_k.weight"]
    state["learnable_pos_embed.pos_emb_t"] = torch.zeros(4, 72)
    state["proj_out.weight"] = torch.zeros(64, 71)
    save_file(state, tmp_path / FILE)
    with pytest.raises(WamkitError) as error:
        TINY.model_copy(update={"weights": str(tmp_path)}).build()
    assert error.value.what == (
        f"the weights at {tmp_path} do not fit this model\n"
        "  1 missing: transformer_blocks.1.attn2.norm_k.weight\n"
        "  1 unexpected: learnable_pos_embed.pos_emb_t\n"
        "  1 of another shape (found for expected): proj_out.weight [64, 71] for [64, 72]"
    )


def test_files_of_another_model_are_in_no_layout(tmp_path: Path) -> None:
    save_file({"net.affline_norm.weight": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(WamkitError, match=r"in no layout known here: found net\.affline_norm"):
        TINY.model_copy(update={"weights": str(tmp_path)}).build()


def test_conditioning_latents_and_extra_tokens_are_refused() -> None:
    backbone: Any = TINY.build()
    frames = Frames(torch.zeros(1, 16, 1, 2, 2), ("context",), (0.0,), torch.zeros(1, 1))
    tokens = torch.zeros(1, 2, 32)
    with pytest.raises(WamkitError, match=r"found 3 channels of conditioning latents; .* takes 0"):
        denoise(backbone, replace(frames, cond_latents=frames.z[:, :3]), Text(tokens))
    with pytest.raises(WamkitError, match=r"found cond_embeds of width 32; .* takes width 0"):
        denoise(backbone, frames, Text(tokens, cond_embeds=tokens))


@torch.no_grad()
def test_a_second_step_computes_neither_text_keys_nor_modulation() -> None:
    backbone: Any = Cosmos(variant="predict2.5-2b").tiny().build()
    z, runner = torch.randn(1, 16, 2, 2, 2), PassRunner()
    text, run, calls = Text(torch.randn(1, 3, 56)), (1.0, 0.5, 0.25), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    block = backbone.transformer_blocks[0]
    once = (
        *(backbone.crossattn_proj, block.attn2.to_k, block.attn2.to_v),
        *(backbone.time_embed, block.norm1, block.norm2, block.norm3, backbone.norm_out),
    )
    for module in once:
        module.register_forward_hook(count)
    videos, counts = [], []
    for index in range(len(run)):
        levels = (CLEAN, Level(run, index))
        frames = Frames(z, ("context", "target"), (0.0, 1.0), levels)
        videos.append(embed_video(runner, backbone, frames, text))
        counts.append(calls)
    assert counts[0] > 0 and counts == counts[:1] * len(run)
    rows = [video.frames.modulation.gather(video.frames.level_index)[0] for video in videos]  # type: ignore[union-attr]
    assert videos[0].frames.rotary is videos[2].frames.rotary
    assert torch.equal(rows[0][:, 0], rows[2][:, 0]) and not torch.equal(rows[0], rows[2])

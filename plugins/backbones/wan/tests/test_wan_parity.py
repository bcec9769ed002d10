"""Wan's transformer against diffusers' class: same files, same velocities, same gradients."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from wamkit_wan import Wan
from wamkit_wan.weights import LAYOUTS

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import cast
from wamkit.config.visibility import everyone
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import denoise
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, Text, counted
from wamkit.testing.parity import (
    float64,
    other_values,
    randomize_parameters,
    same_gradients,
    same_values,
    to_float64,
    unused_modules,
    velocity_gradients,
)

CONFIGS = {
    "2.1-t2v": Wan(variant="2.1-t2v-1.3b").tiny(),
    "2.1-i2v": Wan(variant="2.1-i2v-14b").tiny(),
    "2.2-ti2v": Wan(variant="2.2-ti2v-5b").tiny(),
}
cases = pytest.mark.parametrize("case", CONFIGS)
B, T, H, W = 2, 3, 4, 6  # batch, latent frames, latent height and width
PER_FRAME = (H // 2) * (W // 2)  # tokens


def reference(config: Wan) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    return diffusers.WanTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.latent_channels + config.cond_channels,
        out_channels=config.latent_channels,
        text_dim=config.text_width,
        ffn_dim=config.mlp_dim,
        num_layers=config.layers,
        image_dim=config.cond_embeds_width or None,
        added_kv_proj_dim=config.num_heads * config.head_dim if config.cond_embeds_width else None,
    ).eval()


def original_name(name: str) -> str:
    """The name in github.com/Wan-Video of a tensor that diffusers calls `name`."""
    for pattern, replacement in (
        (r"^condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
        (r"^condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
        (r"^condition_embedder\.(time|text)_embedder\.linear_1", r"\1_embedding.0"),
        (r"^condition_embedder\.(time|text)_embedder\.linear_2", r"\1_embedding.2"),
        (r"^condition_embedder\.time_proj", "time_projection.1"),
        (r"^scale_shift_table", "head.modulation"),
        (r"^proj_out", "head.head"),
        (r"scale_shift_table", "modulation"),
        (r"norm2", "norm3"),
        (r"attn1", "self_attn"),
        (r"attn2", "cross_attn"),
        (r"add_([kv])_proj", r"\1_img"),
        (r"norm_added_k", "norm_k_img"),
        (r"to_([qkv])", r"\1"),
        (r"to_out\.0", "o"),
        (r"net\.0\.proj", "0"),
        (r"net\.2", "2"),
    ):
        if "img_emb" not in name:
            name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    # What is normalized next is small.
    small = "to_q|to_k|add_k_proj|patch_embedding"
    return {
        case: randomize_parameters(reference(config), small) for case, config in CONFIGS.items()
    }


@pytest.fixture(scope="module")
@float64()
def wide(references: dict[str, Any]) -> dict[str, Any]:
    """The references in float64, rotary positions too, which are computed when one is built."""
    made = {case: reference(CONFIGS[case]) for case in references}
    for case, model in made.items():
        model.load_state_dict(references[case].state_dict())
    return made


@pytest.fixture(scope="module")
def folders(
    references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder a case, with the reference's weights in three layouts."""
    made = {}
    for case, model in references.items():
        made[case] = folder = tmp_path_factory.mktemp(case)
        model.save_pretrained(folder / "whole" / "transformer")
        model.save_pretrained(folder / "sharded" / "transformer", max_shard_size="200KB")
        assert len(list((folder / "sharded" / "transformer").glob("*.safetensors"))) > 1
        state = model.state_dict()
        (folder / "original").mkdir()
        save_file(
            {original_name(k): v for k, v in state.items()},
            folder / "original" / "diffusion_pytorch_model.safetensors",
        )
    return made


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Any]:
    return {case: built(case, folders[case] / "whole") for case in CONFIGS}


def built(case: str, path: Path) -> Any:
    return CONFIGS[case].model_copy(update={"weights": str(path)}).build()


def scene(case: str, sigma: tuple[float, float] = (0.951, 0.0375)) -> tuple[Frames, Text]:
    """Frames and an instruction, the two of the batch at noise levels of their own."""
    config, generator = CONFIGS[case], torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    levels = torch.tensor(sigma)[:, None].repeat(1, T)
    roles: tuple[str, ...] = ("target",) * T
    if case == "2.2-ti2v":
        roles = ("context", *roles[1:])
        levels[:, 0] = 0
    text_tokens, guide, image = draw(B, 7, config.text_width), None, None
    if case == "2.1-i2v":
        text_tokens = draw(B, 512, config.text_width)  # the length that diffusers takes for granted
        guide = draw(B, config.cond_channels, T, H, W)
        image = 0.03 * draw(B, 5, config.cond_embeds_width)
    z = draw(B, config.latent_channels, T, H, W)
    frames = Frames(z, roles, counted(T), levels, guide)
    return frames, Text(text_tokens, cond_embeds=image)


def expected(model: Any, frames: Frames, text: Text) -> Tensor:
    """What diffusers' class predicts; one timestep a token where frames differ."""
    t = 1000 * frames.sigma
    t = t.repeat_interleave(PER_FRAME, 1) if "context" in frames.roles else t[:, 0]
    z = frames.z
    if frames.cond_latents is not None:
        z = torch.cat([z, frames.cond_latents], 1)
    return model(z, t, text.tokens, text.cond_embeds, return_dict=False)[0]


@cases
@pytest.mark.parametrize("layout", ["whole", "sharded", "original"])
@float64()
def test_velocity_equals_that_of_diffusers(
    case: str, layout: str, wide: dict[str, Any], folders: dict[str, Path]
) -> None:
    backbone = to_float64(built(case, folders[case] / layout))
    frames, text = scene(case)
    with torch.no_grad():
        wanted = expected(wide[case], frames, text)
        first = denoise(backbone, frames, text)
        again = denoise(backbone, frames, text)  # with what the first pass remembered
    assert wanted.std() > 0.3
    same_values(first, wanted)
    assert torch.equal(again, first)


@cases
@float64()
def test_gradients_equal_those_of_diffusers(
    case: str, wide: dict[str, Any], backbones: dict[str, Any]
) -> None:
    backbones = to_float64(backbones)
    frames, text = scene(case)
    wanted = velocity_gradients(wide[case], frames, text, expected)
    same_gradients(velocity_gradients(backbones[case], frames, text), wanted)


@cases
def test_bfloat16_stays_near_float32(
    case: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    backbone: Any = cast(built(case, folders[case] / "whole"), torch.bfloat16)
    kept = {n for n, p in backbone.named_parameters() if p.dtype == torch.float32}
    assert "condition_embedder.time_embedder.linear_1.weight" in kept
    assert "blocks.0.scale_shift_table" in kept and "blocks.0.attn1.norm_q.weight" in kept
    assert "blocks.0.attn1.to_q.weight" not in kept
    frames, text = scene(case, sigma=(1.0, 0.5))
    with torch.no_grad():
        wanted = expected(references[case], frames, text)
        found = denoise(backbone, frames, text)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).norm() / wanted.norm() < 0.03


@cases
def test_original_names_become_those_of_diffusers_own_converter(
    case: str, references: dict[str, Any]
) -> None:
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    names = [original_name(name) for name in references[case].state_dict()]
    marks = {name: torch.tensor(i) for i, name in enumerate(names)}
    converted = {k: names[int(v)] for k, v in convert_wan_transformer_to_diffusers(marks).items()}
    assert {LAYOUTS[1].rename(name)[0]: name for name in names} == converted
    assert {LAYOUTS[1].rename(f"model.diffusion_model.{n}")[0]: n for n in names} == converted


@float64()
def test_role_by_role_equals_one_masked_attention(backbones: dict[str, Any]) -> None:
    backbones = to_float64(backbones)
    backbone, (frames, text) = backbones["2.2-ti2v"], scene("2.2-ti2v")
    role = torch.tensor([r == "target" for r in frames.roles]).repeat_interleave(PER_FRAME)
    mask = role[:, None] | ~role[None, :]  # targets see all, the context only itself

    def masked(q: Tensor, k: Tensor, v: Tensor, mask_: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    with torch.no_grad():
        runner = PassRunner()
        video = embed_video(runner, backbone, frames, text)
        (x,), _ = runner.run(video.streams, everyone(frames.roles), attend=masked)
        wanted = backbone.final_layer(x, video.modulation, video.clip)
        table = {"context": {"context"}, "target": {"context", "target"}}
        found = denoise(backbone, frames, text, table)
        full = denoise(backbone, frames, text)
    same_values(found, wanted)
    other_values(full, wanted, 0.01)


@float64()
def test_a_frame_is_placed_by_its_time_not_its_index(backbones: dict[str, Any]) -> None:
    backbones = to_float64(backbones)
    backbone, (frames, text) = backbones["2.2-ti2v"], scene("2.2-ti2v")
    order = [2, 0, 1]
    moved = Frames(
        frames.z[:, :, order],
        tuple(frames.roles[i] for i in order),
        tuple(frames.times[i] + 0.5 for i in order),  # distances matter, fractions are allowed
        frames.sigma[:, order],
    )
    with torch.no_grad():
        wanted = denoise(backbone, frames, text)
        found = denoise(backbone, moved, text)
        stretched = denoise(backbone, replace(moved, times=tuple(2 * t for t in moved.times)), text)
    same_values(found, wanted[:, :, order])
    other_values(stretched, found, 0.01)


@float64()
def test_padding_of_the_instruction_is_not_seen_where_the_mask_hides_it(
    backbones: dict[str, Any],
) -> None:
    backbones = to_float64(backbones)
    backbone, (frames, text) = backbones["2.1-t2v"], scene("2.1-t2v")
    valid = torch.arange(7)[None, :].expand(B, -1) < 4
    with torch.no_grad():
        short = denoise(backbone, frames, Text(text.tokens[:, :4]))
        masked = denoise(backbone, frames, Text(text.tokens, valid))
    same_values(masked, short)


def test_every_linear_layer_is_called_as_a_module(backbones: dict[str, Any]) -> None:
    backbone = backbones["2.1-i2v"]
    assert not unused_modules(backbone, lambda: denoise(backbone, *scene("2.1-i2v")))


def test_missing_and_unexpected_channels_and_images_are_refused(backbones: dict[str, Any]) -> None:
    frames, text = scene("2.1-i2v")
    with pytest.raises(WamkitError, match=r"found 0 channels of conditioning latents; .* takes 20"):
        denoise(backbones["2.1-i2v"], replace(frames, cond_latents=None), text)
    with pytest.raises(WamkitError, match=r"found cond_embeds of width 0; .* takes width 16"):
        denoise(backbones["2.1-i2v"], frames, Text(text.tokens))
    frames, t2v_text = scene("2.1-t2v")
    with pytest.raises(WamkitError, match=r"found 3 channels of conditioning latents; .* takes 0"):
        denoise(backbones["2.1-t2v"], replace(frames, cond_latents=frames.z[:, :3]), t2v_text)
    with pytest.raises(WamkitError, match=r"found cond_embeds of width 16; .* takes width 0"):
        denoise(backbones["2.1-t2v"], frames, Text(t2v_text.tokens, cond_embeds=text.cond_embeds))


def test_weights_of_one_file_are_those_of_the_reference(
    references: dict[str, Any], folders: dict[str, Path]
) -> None:
    file = folders["2.1-i2v"] / "original" / "diffusion_pytorch_model.safetensors"
    wanted = references["2.1-i2v"].state_dict()
    assert "blocks.0.cross_attn.norm_k_img.weight" in load_file(file)
    found = built("2.1-i2v", file).state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@float64()
def test_one_padding_token_that_counts_for_all_equals_all_of_them() -> None:
    model = to_float64(Wan(variant="tiny").build()).eval()
    rng = torch.Generator().manual_seed(9)
    z = torch.randn(2, 16, 2, 4, 6, generator=rng)
    video = Frames(z, ("context", "target"), (0.0, 1.0), torch.tensor([[0.0, 0.7]] * 2))
    real, length = (7, 3), 512
    padded = torch.zeros(2, length, 32)
    short = torch.zeros(2, max(real) + 1, 32)
    repeats = torch.zeros(2, max(real) + 1)
    for i, n in enumerate(real):
        padded[i, :n] = short[i, :n] = torch.randn(n, 32, generator=rng)
        repeats[i, :n], repeats[i, -1] = 1, length - n
    with torch.no_grad():
        whole = denoise(model, video, Text(padded))
        shortcut = denoise(model, video, Text(short, repeats=repeats))
        without = denoise(model, video, Text(short, valid=repeats > 0))
    same_values(shortcut, whole)
    other_values(without, whole)

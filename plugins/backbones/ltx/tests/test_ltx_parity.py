"""LTX-Video's transformer against diffusers' class: same files, same velocities, same gradients."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from wamkit_ltx import LTX
from wamkit_ltx.backbone import LTXBackbone

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.config.parts import Weighted
from wamkit.config.visibility import everyone
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import denoise
from wamkit.interfaces.backbone import grid_positions
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, Text, counted
from wamkit.testing.parity import (
    float64,
    other_values,
    randomize_parameters,
    same_gradients,
    same_shapes,
    same_values,
    to_float64,
    unused_modules,
    velocity_gradients,
)

diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")

# Width 64 does not divide by 6, so that some numbers of a token are not turned.
TINY = LTX(variant="tiny", latent_channels=8, text_width=20)
PUBLISHED = {"0.9-2b": 1_923_385_472, "0.9.7-13b": 13_042_569_344}
B, T, H, W, L = 2, 3, 4, 3, 12  # batch, latent frames, height and width, text tokens
FPS = 25.0


def reference_of(config: LTX) -> Any:
    width = config.num_heads * config.head_dim
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        cross_attention_dim=width,
        num_layers=config.layers,
        caption_channels=config.text_width,
    ).eval()


def original_name(name: str) -> str:
    """The name in github.com/Lightricks/LTX-Video of a tensor that diffusers calls `name`."""
    for pattern, replacement in (
        (r"^proj_in\.", "patchify_proj."),
        (r"^time_embed\.", "adaln_single."),
        (r"\.norm_([qk])\.", r".\1_norm."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def reference() -> Any:
    return randomize_parameters(
        reference_of(TINY), small="to_q|to_k|proj_in"
    )  # what is normalized next


@pytest.fixture(scope="module")
def folder(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's weights in three layouts."""
    made = tmp_path_factory.mktemp("ltx")
    reference.save_pretrained(made / "diffusers" / "transformer")
    original = {original_name(name): t for name, t in reference.state_dict().items()}
    save_file(original, made / "original.safetensors")
    combined = {f"model.diffusion_model.{name}": t for name, t in original.items()}
    combined["vae.decoder.conv_in.conv.weight"] = torch.zeros(1)
    save_file(combined, made / "combined.safetensors")
    return made


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Any:
    return built(folder / "diffusers")


def built(path: Path, **changes: Any) -> Any:
    return TINY.model_copy(update={"weights": str(path), **changes}).build()


def scene(sigma: tuple[float, float] = (0.951, 0.0375)) -> tuple[Frames, Text]:
    """One clean frame and two noisy ones, each sample at a level of its own; a padded prompt."""
    generator = torch.Generator().manual_seed(2)
    levels = torch.tensor(sigma)[:, None].repeat(1, T)
    levels[:, 0] = 0
    z = torch.randn(B, 8, T, H, W, generator=generator)
    valid = torch.ones(B, L, dtype=torch.bool)
    valid[1, 5:] = False
    tokens = torch.randn(B, L, 20, generator=generator)
    return Frames(z, ("context", "target", "target"), counted(T), levels), Text(tokens, valid)


def coordinates(times: tuple[float, ...], *, causal: bool) -> Tensor:
    """[B, 3, S] seconds, rows and columns of pixels, as in diffusers' condition pipeline."""
    begins = 8 * torch.tensor(times)
    if causal:
        begins = (begins + 1 - 8).clamp(min=0)
    axes = (begins / FPS, 32.0 * torch.arange(H), 32.0 * torch.arange(W))
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    return grid.expand(B, -1, -1)


def expected(model: Any, frames: Frames, text: Text, **places: Any) -> Tensor:
    """What diffusers' class predicts, with one timestep a token."""
    where = places or {"video_coords": coordinates(frames.times, causal=True)}
    tokens = model(
        hidden_states=frames.z.flatten(2).transpose(1, 2),
        encoder_hidden_states=text.tokens,
        timestep=1000 * frames.sigma.repeat_interleave(H * W, 1),
        encoder_attention_mask=None if text.valid is None else text.valid.long(),
        return_dict=False,
        **where,
    )[0]
    return tokens.transpose(1, 2).unflatten(2, frames.z.shape[2:])


@pytest.mark.parametrize("layout", ["diffusers", "original.safetensors", "combined.safetensors"])
@float64()
def test_velocity_equals_that_of_diffusers(layout: str, reference: Any, folder: Path) -> None:
    reference = to_float64(reference)
    found = to_float64(built(folder / layout))
    with torch.no_grad():
        wanted = expected(reference, *scene())
        first = denoise(found, *scene())
    assert wanted.std() > 0.3
    same_values(first, wanted)


@float64()
def test_times_of_the_first_versions_are_those_of_diffusers_first_pipeline(
    reference: Any, folder: Path
) -> None:
    reference = to_float64(reference)
    frames, text = scene()
    scale = (8 / FPS, 32, 32)
    with torch.no_grad():
        wanted = expected(
            reference,
            frames,
            text,
            num_frames=T,
            height=H,
            width=W,
            rope_interpolation_scale=scale,
        )
        found = denoise(to_float64(built(folder / "diffusers", causal_times=False)), frames, text)
        causal = denoise(to_float64(built(folder / "diffusers")), frames, text)
    same_values(found, wanted)
    other_values(causal, wanted)


@float64()
def test_images_a_second_place_the_frames(reference: Any, folder: Path) -> None:
    reference = to_float64(reference)
    frames, text = scene()
    coords = coordinates(frames.times, causal=True) * torch.tensor([[5.0], [1.0], [1.0]])
    with torch.no_grad():
        wanted = expected(reference, frames, text, video_coords=coords)
        found = denoise(to_float64(built(folder / "diffusers", fps=5.0)), frames, text)
    same_values(found, wanted)


@float64()
def test_a_frame_is_placed_by_its_time_not_its_index(reference: Any, backbone: Any) -> None:
    reference, backbone = to_float64((reference, backbone))
    frames, text = scene()
    moved = replace(frames, times=(0.0, 2.5, 7.0))
    with torch.no_grad():
        wanted = expected(reference, moved, text)
        found = denoise(backbone, moved, text)
    same_values(found, wanted)


@float64()
def test_gradients_equal_those_of_diffusers(reference: Any, backbone: Any) -> None:
    reference, backbone = to_float64((reference, backbone))
    frames, text = scene()
    wanted = velocity_gradients(reference, frames, text, expected)
    same_gradients(velocity_gradients(backbone, frames, text), wanted)


def test_bfloat16_stays_near_float32(reference: Any, folder: Path) -> None:
    found: Any = cast(built(folder / "diffusers"), torch.bfloat16)
    kept = {n for n, p in found.named_parameters() if p.dtype == torch.float32}
    assert "time_embed.emb.timestep_embedder.linear_1.weight" in kept
    assert "transformer_blocks.0.scale_shift_table" in kept
    assert "transformer_blocks.0.attn1.norm_q.weight" in kept
    assert "transformer_blocks.0.attn1.to_q.weight" not in kept
    frames, text = scene(sigma=(1.0, 0.5))
    with torch.no_grad():
        wanted = expected(reference, frames, text)
        velocity = denoise(found, frames, text)
    assert velocity.dtype == torch.bfloat16
    assert (velocity.float() - wanted).norm() / wanted.norm() < 0.03


@float64()
def test_role_by_role_equals_one_masked_attention(backbone: Any) -> None:
    backbone = to_float64(backbone)
    frames, text = scene()
    role = torch.tensor([r == "target" for r in frames.roles]).repeat_interleave(H * W)
    mask = role[:, None] | ~role[None, :]  # targets see all, the context only itself

    def masked(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    with torch.no_grad():
        runner = PassRunner()
        video = embed_video(runner, backbone, frames, text)
        (x,), _ = runner.run(video.streams, everyone(frames.roles), attend=masked)
        wanted = backbone.final_layer(x, video.modulation, video.clip)
        table = {"context": {"context"}, "target": {"context", "target"}}
        found = denoise(backbone, frames, text, table)
    same_values(found, wanted)


@float64()
def test_positions_turn_the_whole_width_and_leave_the_rest_in_front() -> None:
    backbone: Any = LTXBackbone(TINY)
    positions = grid_positions(torch.tensor(scene()[0].times), H, W)
    cos, sin, _ = backbone.embed_positions(positions)  # [H, S, E / 2]
    assert cos.shape == (4, T * H * W, 8)
    flat = sin.transpose(0, 1).flatten(1)
    assert (flat[:, :2] == 0).all()  # 64 = 4 + 6 * 10: two pairs stay
    assert (flat[:, 2:] != 0).any(0).all()
    # Heads differ: frequencies grow over the width, not within a head.
    other_values(cos[0], cos[1], 1e-5)


def test_every_linear_layer_is_called_as_a_module(backbone: Any) -> None:
    assert not unused_modules(backbone, lambda: denoise(backbone, *scene()))


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes_have_the_names_and_shapes_of_diffusers(variant: str) -> None:
    config = LTX.model_validate({"variant": variant})
    with torch.device("meta"):
        ours, theirs = LTXBackbone(config), reference_of(config)
    same_shapes(ours, theirs)
    assert parameters(ours) == PUBLISHED[variant]


def test_original_names_become_those_of_diffusers_own_converter(reference: Any) -> None:
    from diffusers.loaders.single_file_utils import convert_ltx_transformer_checkpoint_to_diffusers

    names = [f"model.diffusion_model.{original_name(name)}" for name in reference.state_dict()]
    marks = {name: torch.tensor(i) for i, name in enumerate(names)}
    theirs = convert_ltx_transformer_checkpoint_to_diffusers(marks)
    converted = {k: names[int(v)] for k, v in theirs.items()}
    *_, original = TINY.layouts()
    assert {original.rename(name)[0]: name for name in names} == converted


def test_a_tensor_that_belongs_to_no_part_is_named(reference: Any, tmp_path: Path) -> None:
    state = {original_name(name): t for name, t in reference.state_dict().items()}
    save_file({**state, "vae2.conv": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WamkitError, match=r"1 unexpected: vae2\.conv"):
        built(tmp_path / "model.safetensors")


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    assert LTX(variant="0.9.7-13b").traits.width == 4096
    assert LTX(layers=12).layers == 12 and LTX(layers=12).num_heads == 32
    tiny = LTX(latent_channels=16, causal_times=False).tiny()
    assert tiny.model_dump(exclude=set(Weighted.model_fields)) == {
        "variant": "tiny", "layers": 2, "num_heads": 4, "head_dim": 16, "mlp_dim": 256,
        "latent_channels": 16, "text_width": 32, "fps": 25.0, "causal_times": False,
        "views": 0, "cross_view_stride": 3,
    }  # fmt: skip

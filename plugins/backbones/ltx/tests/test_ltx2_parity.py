"""The video half of LTX-2 against diffusers' whole model with its halves kept apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wamkit_ltx import LTX2
from wamkit_ltx.backbone import LTX2Backbone

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.interfaces import denoise
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

Design = Literal["2.0", "2.3"]
# Width 64 does not divide by 6, so that some numbers of a token are not turned.
TINY: dict[str, LTX2] = {
    "2.0": LTX2(variant="tiny", latent_channels=8, text_width=20),
    "2.3": LTX2(variant="tiny", latent_channels=8, design="2.3"),
}
WHOLE = {"2.0": 18_876_174_592, "2.3": 18_988_838_144}  # parameters, audio included
designs = pytest.mark.parametrize("design", TINY)
B, T, H, W, L = 2, 3, 4, 3, 12  # batch, latent frames, height and width, text tokens


def reference_of(config: LTX2, audio_heads: int = 4, audio_head_size: int = 8) -> Any:
    newer = config.design == "2.3"
    return diffusers.LTX2VideoTransformer3DModel(
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        cross_attention_dim=config.num_heads * config.head_dim,
        audio_in_channels=config.latent_channels,
        audio_out_channels=config.latent_channels,
        audio_num_attention_heads=audio_heads,
        audio_attention_head_dim=audio_head_size,
        audio_cross_attention_dim=audio_heads * audio_head_size,
        num_layers=config.layers,
        caption_channels=config.text_width,
        rope_type="split",
        rope_double_precision=True,
        gated_attn=newer,
        cross_attn_mod=newer,
        audio_gated_attn=newer,
        audio_cross_attn_mod=newer,
        use_prompt_embeddings=not newer,
        perturbed_attn=newer,
    ).eval()


def original_name(name: str) -> str:
    """The name in github.com/Lightricks/LTX-2 of a tensor that diffusers calls `name`."""
    for pattern, replacement in (
        (r"^(audio_)?proj_in\.", r"\1patchify_proj."),
        (r"^(audio_)?time_embed\.", r"\1adaln_single."),
        (r"^(audio_)?prompt_adaln\.", r"\1prompt_adaln_single."),
        (r"^av_cross_attn_(video|audio)_scale_shift\.", r"av_ca_\1_scale_shift_adaln_single."),
        (r"^av_cross_attn_(?:video|audio)_(a2v|v2a)_gate\.", r"av_ca_\1_gate_adaln_single."),
        (r"(video|audio)_a2v_cross_attn_scale_shift_table", r"scale_shift_table_a2v_ca_\1"),
        (r"\.norm_([qk])\.", r".\1_norm."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    # What is normalized next is small.
    small = "to_q|to_k|^proj_in"
    return {
        design: randomize_parameters(reference_of(config), small) for design, config in TINY.items()
    }


@pytest.fixture(scope="module")
def folders(
    references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The references' weights, audio included, in two layouts."""
    made = {}
    for design, model in references.items():
        made[design] = folder = tmp_path_factory.mktemp("ltx2")
        model.save_pretrained(folder / "diffusers" / "transformer")
        prefix = "model.diffusion_model."
        original = {prefix + original_name(n): t for n, t in model.state_dict().items()}
        for other in (
            f"{prefix}video_embeddings_connector.learnable_registers",
            f"{prefix}audio_embeddings_connector.learnable_registers",
            "text_embedding_projection.aggregate_embed.weight",
            "vae.decoder.conv_in.conv.weight",
            "audio_vae.decoder.conv_in.conv.weight",
            "vocoder.conv_pre.weight",
        ):
            original[other] = torch.zeros(1)
        save_file(original, folder / "original.safetensors")
    return made


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Any]:
    return {design: built(design, folders[design] / "diffusers") for design in TINY}


def built(design: str, path: Path, **changes: Any) -> Any:
    return TINY[design].model_copy(update={"weights": str(path), **changes}).build()


def scene(design: str, sigma: tuple[float, float] = (0.951, 0.0375)) -> tuple[Frames, Text]:
    """Three frames, of which 2.0 knows the first; a padded prompt.

    The prompt of 2.3 is modulated by the noise level, of which diffusers takes one for all frames.
    """
    generator = torch.Generator().manual_seed(2)
    levels = torch.tensor(sigma)[:, None].repeat(1, T)
    roles: tuple[str, ...] = ("target",) * T
    if design == "2.0":
        roles = ("context", *roles[1:])
        levels[:, 0] = 0
    z = torch.randn(B, 8, T, H, W, generator=generator)
    valid = torch.ones(B, L, dtype=torch.bool)
    valid[1, 5:] = False
    tokens = torch.randn(B, L, TINY[design].text_width, generator=generator)
    return Frames(z, roles, counted(T), levels), Text(tokens, valid)


def expected(model: Any, frames: Frames, text: Text, *, apart: bool = True, **other: Any) -> Tensor:
    """The video that diffusers' class predicts next to audio that it does not attend to."""
    generator, count = torch.Generator().manual_seed(4), 5
    width = text.tokens.shape[-1]
    if not model.config.use_prompt_embeddings:
        width = model.config.audio_cross_attention_dim
    level = 1000 * frames.sigma[:, -1]
    frames_given = {"num_frames": frames.z.shape[2], "height": H, "width": W, "fps": 24.0}
    assert text.valid is not None
    tokens = model(
        hidden_states=frames.z.flatten(2).transpose(1, 2),
        audio_hidden_states=torch.randn(B, count, 8, generator=generator),
        encoder_hidden_states=text.tokens,
        audio_encoder_hidden_states=torch.randn(B, L, width, generator=generator),
        timestep=1000 * frames.sigma.repeat_interleave(H * W, 1),
        audio_timestep=level,
        sigma=level,
        encoder_attention_mask=text.valid.long(),
        audio_encoder_attention_mask=text.valid.long(),
        audio_num_frames=count,
        isolate_modalities=apart,
        return_dict=False,
        **{**frames_given, **other},
    )[0]
    return tokens.transpose(1, 2).unflatten(2, frames.z.shape[2:])


@designs
@pytest.mark.parametrize("layout", ["diffusers", "original.safetensors"])
@float64()
def test_velocity_equals_that_of_diffusers(
    design: str, layout: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    found = to_float64(built(design, folders[design] / layout))
    with torch.no_grad():
        wanted = expected(references[design], *scene(design))
        velocity = denoise(found, *scene(design))
    assert wanted.std() > 0.3
    same_values(velocity, wanted)


@designs
@float64()
def test_only_the_attention_to_audio_is_missing(
    design: str, references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    model, (frames, text) = references[design], scene(design)
    attending = {n: p for n, p in model.named_parameters() if "audio_to_video_attn.to_out" in n}
    before = {name: p.detach().clone() for name, p in attending.items()}
    with torch.no_grad():
        found = denoise(backbones[design], frames, text)
        whole = expected(model, frames, text, apart=False)
        for p in attending.values():
            p.zero_()
        deaf = expected(model, frames, text, apart=False)
        for name, p in attending.items():
            p.copy_(before[name])
    same_values(found, deaf)
    other_values(whole, deaf, 0.01)


@designs
@float64()
def test_gradients_equal_those_of_diffusers(
    design: str, references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene(design)
    found = velocity_gradients(backbones[design], frames, text)
    wanted = velocity_gradients(references[design], frames, text, expected)
    same_gradients(found, {name: g for name, g in wanted.items() if g.any()})  # no audio


@float64()
def test_the_prompt_is_modulated_by_the_level_of_the_frame_that_attends_to_it(
    references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene("2.3")
    roles = ("context", "target", "target.1")
    levels = torch.tensor([[0.0, 0.951, 0.5], [0.0, 0.0375, 0.25]])
    alone = Frames(frames.z, roles, frames.times, levels)
    model = references["2.3"]
    coords = model.rope.prepare_video_coords(B, T, H, W, torch.device("cpu"), fps=24.0)
    with torch.no_grad():
        found = denoise(backbones["2.3"], alone, text, {role: {role} for role in roles})
        for i, role in enumerate(roles):
            here = coords[:, :, i * H * W : (i + 1) * H * W]
            wanted = expected(model, alone.only(role), text, video_coords=here)
            same_values(found[:, :, i : i + 1], wanted)


@designs
@float64()
def test_images_a_second_place_the_frames(
    design: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    frames, text = scene(design)
    with torch.no_grad():
        wanted = expected(references[design], frames, text, fps=5.0)
        found = denoise(
            to_float64(built(design, folders[design] / "diffusers", fps=5.0)), frames, text
        )
    same_values(found, wanted)


@designs
def test_bfloat16_stays_near_float32(
    design: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    found: Any = cast(built(design, folders[design] / "diffusers"), torch.bfloat16)
    frames, text = scene(design, sigma=(1.0, 0.5))
    with torch.no_grad():
        wanted = expected(references[design], frames, text)
        velocity = denoise(found, frames, text)
    assert velocity.dtype == torch.bfloat16
    assert (velocity.float() - wanted).norm() / wanted.norm() < 0.03


@designs
def test_every_linear_layer_is_called_as_a_module(design: str, backbones: dict[str, Any]) -> None:
    backbone = backbones[design]
    assert not unused_modules(backbone, lambda: denoise(backbone, *scene(design)))


@pytest.mark.parametrize(("variant", "total"), WHOLE.items())
def test_published_sizes_are_the_video_half_of_diffusers(variant: str, total: int) -> None:
    config = LTX2.model_validate({"variant": variant})
    with torch.device("meta"):
        ours = LTX2Backbone(config)
        theirs = reference_of(config, audio_heads=32, audio_head_size=64)
    assert parameters(theirs) == total
    dialect, _ = config.layouts()
    same_shapes(ours, theirs, dialect.rename)


@designs
def test_original_names_become_those_of_diffusers_own_converter(
    design: str, references: dict[str, Any]
) -> None:
    from diffusers.loaders.single_file_utils import convert_ltx2_transformer_to_diffusers

    names = [f"model.diffusion_model.{original_name(n)}" for n in references[design].state_dict()]
    marks = {name: torch.tensor(i) for i, name in enumerate(names)}
    theirs = convert_ltx2_transformer_to_diffusers(marks)
    converted = {names[int(i)]: name for name, i in theirs.items()}
    diffusers_layout, original = TINY[design].layouts()
    video = {name: new for name, new in converted.items() if diffusers_layout.rename(new)}
    # The converter of single files leaves this name of 2.3 as it is.
    video = {a: b.replace("prompt_adaln_single", "prompt_adaln") for a, b in video.items()}
    assert {name: original.rename(name)[0] for name in names if original.rename(name)} == video


def test_a_tensor_that_belongs_to_no_part_is_named(
    references: dict[str, Any], tmp_path: Path
) -> None:
    state = references["2.0"].state_dict()
    save_file({**state, "keyframes_abs_pos_embedding": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WamkitError, match="1 unexpected: keyframes_abs_pos_embedding"):
        built("2.0", tmp_path / "a.safetensors")


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    assert LTX2(variant="2.3").design == "2.3" and LTX2(variant="2.3").traits.text_width == 4096
    assert LTX2(layers=12).layers == 12 and LTX2().design == "2.0"
    assert LTX2(variant="2.3").tiny().design == "2.3"

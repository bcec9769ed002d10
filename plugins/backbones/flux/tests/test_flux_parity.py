"""The FLUX transformers against diffusers' classes: same files, same velocities, same gradients."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wamkit_flux import Flux1, Flux2
from wamkit_flux.weights import FLUX1, FLUX2

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import denoise
from wamkit.interfaces.streams import embed_videos
from wamkit.interfaces.types import Frames, ModelInputs, Text, counted
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

SMALL = {"variant": "tiny", "text_sigma": "target"}
CONFIGS: dict[str, Any] = {
    "klein": Flux2(**SMALL, latent_channels=16),
    "guided": Flux2(**SMALL, latent_channels=16, guidance=3.5),
    "kontext": Flux1(**SMALL, cond_embeds_width=20),
}
cases = pytest.mark.parametrize("case", CONFIGS)
ROLES = ("target", "context", "context")
B, T, H, W, L = 2, 3, 4, 6, 7  # batch, latent frames, height and width, words


def reference(config: Any) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    size, sizes = config.head_dim, {
        "num_layers": config.double_layers,
        "num_single_layers": config.single_layers,
        "attention_head_dim": config.head_dim,
        "num_attention_heads": config.num_heads,
        "joint_attention_dim": config.text_width,
    }  # fmt: skip
    if isinstance(config, Flux2):
        return diffusers.Flux2Transformer2DModel(
            **sizes,
            in_channels=config.latent_channels,
            mlp_ratio=config.mlp_dim / config.width,
            axes_dims_rope=(size // 4,) * 4,
            guidance_embeds=config.guidance is not None,
        ).eval()
    axes = {24: (4, 10, 10), 128: (16, 56, 56)}[size]
    return diffusers.FluxTransformer2DModel(
        **sizes,
        in_channels=64,
        pooled_projection_dim=config.cond_embeds_width,
        guidance_embeds=True,
        axes_dims_rope=axes,
    ).eval()


def original(state: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    """A state dict of diffusers' class under the names and in the stacks of the original code."""
    state, out = dict(state), {}
    for i in range(2):
        block = f"transformer_blocks.{i}.attn"
        for lane, names in (
            ("img", ("to_q", "to_k", "to_v")),
            ("txt", ("add_q_proj", "add_k_proj", "add_v_proj")),
        ):
            for kind in ("weight", "bias") if case == "kontext" else ("weight",):
                rows = [state.pop(f"{block}.{name}.{kind}") for name in names]
                out[f"double_blocks.{i}.{lane}_attn.qkv.{kind}"] = torch.cat(rows)
        if case == "kontext":
            single = f"single_transformer_blocks.{i}"
            for kind in ("weight", "bias"):
                rows = [state.pop(f"{single}.attn.to_{x}.{kind}") for x in "qkv"]
                rows.append(state.pop(f"{single}.proj_mlp.{kind}"))
                out[f"single_blocks.{i}.linear1.{kind}"] = torch.cat(rows)
    for name, tensor in state.items():
        if name.startswith("norm_out.linear"):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        out[original_name(name)] = tensor
    return out


def original_name(name: str) -> str:
    for pattern, replacement in (
        (r"^x_embedder", "img_in"),
        (r"^context_embedder", "txt_in"),
        (r"^proj_out", "final_layer.linear"),
        (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
        (r"^time_(guidance|text)_embed\.timestep_embedder", "time_in"),
        (r"^time_(guidance|text)_embed\.guidance_embedder", "guidance_in"),
        (r"^time_text_embed\.text_embedder", "vector_in"),
        (r"(in|vector_in)\.linear_1", r"\1.in_layer"),
        (r"(in|vector_in)\.linear_2", r"\1.out_layer"),
        (r"^(\w+_stream_modulation\w*)\.linear", r"\1.lin"),
        (r"^single_transformer_blocks\.(\d)\.attn\.norm_q\.weight", r"single_blocks.\1.Q"),
        (r"^single_transformer_blocks\.(\d)\.attn\.norm_k\.weight", r"single_blocks.\1.K"),
        (r"^single_transformer_blocks", "single_blocks"),
        (r"^transformer_blocks", "double_blocks"),
        (r"attn\.norm_q\.weight", "img_attn.Q"),
        (r"attn\.norm_k\.weight", "img_attn.K"),
        (r"attn\.norm_added_q\.weight", "txt_attn.Q"),
        (r"attn\.norm_added_k\.weight", "txt_attn.K"),
        (r"\.Q$", ".norm.query_norm.scale"),
        (r"\.K$", ".norm.key_norm.scale"),
        (r"attn\.to_qkv_mlp_proj", "linear1"),
        (r"attn\.to_out\.0", "img_attn.proj"),
        (r"attn\.to_add_out", "txt_attn.proj"),
        (r"(attn\.to_out|(?<=\d\.)proj_out)", "linear2"),
        (r"ff_context\.(linear_in|net\.0\.proj)", "txt_mlp.0"),
        (r"ff_context\.(linear_out|net\.2)", "txt_mlp.2"),
        (r"ff\.(linear_in|net\.0\.proj)", "img_mlp.0"),
        (r"ff\.(linear_out|net\.2)", "img_mlp.2"),
        (r"norm1\.linear", "img_mod.lin"),
        (r"norm1_context\.linear", "txt_mod.lin"),
        (r"(?<=\d\.)norm\.linear", "modulation.lin"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return {case: randomize_parameters(reference(config)) for case, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def folders(
    references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder a case, with the reference's weights in both layouts."""
    made = {}
    for case, model in references.items():
        made[case] = folder = tmp_path_factory.mktemp(case)
        model.save_pretrained(folder / "diffusers" / "transformer")
        (folder / "original").mkdir()
        save_file(original(model.state_dict(), case), folder / "original" / "flux.safetensors")
    return made


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Any]:
    return {case: built(case, folders[case] / "diffusers") for case in CONFIGS}


def built(case: str, path: Path, **changes: Any) -> Any:
    return CONFIGS[case].model_copy(update={"weights": str(path), **changes}).build().eval()


def scene(case: str, sigma: tuple[float, float] = (0.951, 0.0375)) -> tuple[Frames, Text]:
    """One frame to make and references at the same noise level, as published."""
    config, generator = CONFIGS[case], torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    # Kontext was published with one reference.
    roles = ROLES[:2] if case == "kontext" else ROLES
    levels = torch.tensor(sigma)[:, None].repeat(1, len(roles))
    z = draw(B, config.traits.latent_channels, len(roles), H, W)
    image = draw(B, 1, 20) if case == "kontext" else None
    text = Text(draw(B, L, config.text_width), cond_embeds=image)
    return Frames(z, roles, counted(len(roles)), levels), text


def places(images: list[int], rows: int, columns: int, axes: int) -> Tensor:
    """Position ids as the pipelines make them: image, row, column (and 0)."""
    grid = torch.zeros(len(images), rows, columns, axes)
    grid[..., 0] = torch.tensor(images)[:, None, None]
    grid[..., 1] = torch.arange(rows)[:, None]
    grid[..., 2] = torch.arange(columns)
    return grid.flatten(0, 2)


def expected(model: Any, frames: Frames, text: Text) -> Tensor:
    """What diffusers' class predicts, at the one noise level a sample that it knows."""
    z, count = frames.z, len(frames.roles)
    t = frames.sigma[:, 0]
    if text.cond_embeds is None:
        tokens = z.flatten(2).transpose(1, 2)
        text_ids = torch.zeros(L, 4)
        text_ids[:, 3] = torch.arange(L)
        ids = places([0, 10, 20][:count], H, W, 4)
        guided = model.config.guidance_embeds
        guidance = torch.full((B,), 3.5) if guided else None
        y = model(tokens, text.tokens, t, ids, text_ids, guidance, return_dict=False)[0]
        return y.transpose(1, 2).unflatten(2, (count, H, W))
    # Packed as FluxKontextPipeline does: channel, row and column of a square of latents.
    squares = z.reshape(B, 16, count, H // 2, 2, W // 2, 2).permute(0, 2, 3, 5, 1, 4, 6)
    ids = places([0, 1, 2][:count], H // 2, W // 2, 3)
    y = model(
        squares.reshape(B, -1, 64), text.tokens, text.cond_embeds[:, 0], t, ids, torch.zeros(L, 3),
        torch.full((B,), 2.5), return_dict=False,
    )[0]  # fmt: skip
    y = y.reshape(B, count, H // 2, W // 2, 16, 2, 2).permute(0, 4, 1, 2, 5, 3, 6)
    return y.reshape(z.shape)


@cases
@pytest.mark.parametrize("layout", ["diffusers", "original"])
@float64()
def test_velocity_equals_that_of_diffusers(
    case: str, layout: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    backbone = to_float64(built(case, folders[case] / layout))
    frames, text = scene(case)
    with torch.no_grad():
        wanted = expected(references[case], frames, text)
        first = denoise(backbone, frames, text)
        again = denoise(backbone, frames, text)
    assert wanted.std() > 0.3
    same_values(first, wanted)
    assert torch.equal(again, first)


@cases
@float64()
def test_gradients_equal_those_of_diffusers(
    case: str, references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene(case)
    wanted = velocity_gradients(references[case], frames, text, expected)
    same_gradients(velocity_gradients(backbones[case], frames, text), wanted)


@torch.no_grad()
@float64()
def test_clean_references_equal_the_fixed_reference_mode_of_diffusers(
    references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    """References at level 0 that see only themselves, as klein-9b-kv was trained."""
    references, backbones = to_float64((references, backbones))
    pytest.importorskip("diffusers")
    from diffusers.models.transformers import transformer_flux2 as theirs

    model = reference(CONFIGS["klein"])
    model.load_state_dict(references["klein"].state_dict())
    for block in model.transformer_blocks:
        block.attn.set_processor(theirs.Flux2KVAttnProcessor())
    for block in model.single_transformer_blocks:
        block.attn.set_processor(theirs.Flux2KVParallelSelfAttnProcessor())
    frames, text = scene("klein")
    frames = Frames(frames.z, ("context", "context", "target"), frames.times, frames.sigma)
    text_ids = torch.zeros(L, 4)
    text_ids[:, 3] = torch.arange(L)
    wanted, _ = model(
        frames.z.flatten(2).transpose(1, 2), text.tokens, frames.sigma[:, 2],
        places([10, 20, 0], H, W, 4), text_ids, kv_cache_mode="extract", num_ref_tokens=2 * H * W,
        return_dict=False,
    )  # fmt: skip
    everything = {"text", "context", "target"}
    sees = {"text": everything, "target": everything, "context": {"context"}}
    found = denoise(backbones["klein"], frames.at(0, "context"), text, sees)[:, :, 2:]
    wanted = wanted.transpose(1, 2).unflatten(2, (1, H, W))
    same_values(found, wanted)
    same = denoise(backbones["klein"], frames, text, sees)[:, :, 2:]
    other_values(same, wanted, 0.01)


@cases
def test_a_noise_level_is_not_rounded_before_it_is_multiplied(
    case: str, folders: dict[str, Path], backbones: dict[str, Any]
) -> None:
    """In bfloat16, 0.951 is 0.949; times 1000 in bfloat16 it is 948."""
    assert float(torch.tensor(0.951).bfloat16() * 1000) == 948
    half: Any = cast(built(case, folders[case] / "diffusers"), torch.bfloat16)
    kept = {n for n, p in half.named_parameters() if p.dtype == torch.float32}
    assert any("timestep_embedder" in name for name in kept)
    assert "transformer_blocks.0.attn.norm_added_q.weight" in kept
    assert "transformer_blocks.0.attn.to_q.weight" not in kept
    assert "norm_out.linear.weight" not in kept
    wanted, found, rounded = (
        model.embed_sigma(torch.tensor([sigma])).embedding
        for model, sigma in ((backbones[case], 0.951), (half, 0.951), (backbones[case], 0.948))
    )
    same_values(found, wanted)
    other_values(rounded, wanted, 0.1)


@cases
@torch.no_grad()
def test_bfloat16_stays_near_float32(
    case: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    half: Any = cast(built(case, folders[case] / "diffusers"), torch.bfloat16)
    frames, text = scene(case, sigma=(1.0, 0.5))
    wanted = expected(references[case], frames, text)
    found = denoise(half, frames, text)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).norm() / wanted.norm() < 0.03


@cases
@torch.no_grad()
@float64()
def test_frames_may_stand_in_any_order_and_at_any_time(
    case: str, backbones: dict[str, Any]
) -> None:
    """Pipelines put references last, cached ones come first: positions follow from roles alone."""
    backbones = to_float64(backbones)
    frames, text = scene(case)
    order = [*range(1, len(frames.roles)), 0]
    moved = Frames(
        frames.z[:, :, order],
        tuple(frames.roles[i] for i in order),
        tuple(frames.times[i] * 3 + 1 for i in order),
        frames.sigma[:, order],
    )
    wanted = denoise(backbones[case], frames, text)[:, :, order]
    same_values(denoise(backbones[case], moved, text), wanted)


@torch.no_grad()
@float64()
def test_references_are_distinguished_by_their_order(backbones: dict[str, Any]) -> None:
    backbones = to_float64(backbones)
    frames, text = scene("klein")
    swapped = Frames(frames.z[:, :, [0, 2, 1]], ROLES, frames.times, frames.sigma)
    one = denoise(backbones["klein"], frames, text)[:, :, 0]
    other_values(denoise(backbones["klein"], swapped, text)[:, :, 0], one, 0.01)


@torch.no_grad()
@float64()
def test_clean_text_does_not_feel_the_level_of_the_target(folders: dict[str, Path]) -> None:
    frames, text = scene("klein")
    keys = {}
    for rule in ("clean", "target"):
        backbone = to_float64(built("klein", folders["klein"] / "diffusers", text_sigma=rule))
        keys[rule] = [
            text_keys(backbone, video, text)
            for video in (frames, frames.at(0.5, "target"), frames.only("context"))
        ]
    first, second, none = keys["clean"]
    assert torch.equal(first, second) and torch.equal(first, none)
    first, second, none = keys["target"]
    other_values(first, second, 0.1)
    assert torch.equal(none, keys["clean"][0])


def text_keys(backbone: Any, frames: Frames, text: Text) -> Tensor:
    """Keys of the text tokens in the first block."""
    stream = embed_videos(PassRunner(), backbone, ModelInputs(text, frames))["video"].text
    assert stream is not None
    rows = stream.modulation.gather(stream.level_index)[0]  # type: ignore[union-attr]
    return stream.blocks[0].pre_attention(stream.tokens, rows, stream.rotary)[0].k  # type: ignore[no-any-return]


@cases
def test_files_of_either_layout_hold_the_same_weights(
    case: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    wanted = references[case].state_dict()
    for layout in ("diffusers", "original"):
        found = built(case, folders[case] / layout).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("case", ["klein", "guided"])
def test_original_names_are_those_of_diffusers_own_converter(
    case: str, references: dict[str, Any]
) -> None:
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import (
        convert_flux2_transformer_checkpoint_to_diffusers as convert,
    )

    wanted = references[case].state_dict()
    names = original(wanted, case)
    converted = convert(dict(names))
    assert converted.keys() == wanted.keys()
    assert all(torch.equal(converted[name], wanted[name]) for name in wanted)
    plain = {new for name in names for new in FLUX2[1].rename(f"model.diffusion_model.{name}")}
    assert plain == wanted.keys()


def test_original_names_of_kontext_are_those_of_diffusers_own_converter() -> None:
    """The converter knows only the published width."""
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import (
        convert_flux_transformer_checkpoint_to_diffusers as convert,
    )

    with torch.device("meta"):
        wanted = reference(Flux1(double_layers=2, single_layers=2)).state_dict()
    names = original(wanted, "kontext")
    converted = convert(dict(names))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in wanted.items()}
    plain = {new for name in names for new in FLUX1[1].rename(f"model.diffusion_model.{name}")}
    assert plain == wanted.keys()


@cases
def test_every_linear_layer_is_called_as_a_module(case: str, backbones: dict[str, Any]) -> None:
    assert not unused_modules(backbones[case], lambda: denoise(backbones[case], *scene(case)))


def test_channels_and_pooled_text_that_are_missing_or_not_wanted_are_refused(
    backbones: dict[str, Any],
) -> None:
    frames, text = scene("klein")
    with pytest.raises(WamkitError, match=r"found 3 channels of conditioning latents; .* takes 0"):
        denoise(backbones["klein"], replace(frames, cond_latents=frames.z[:, :3]), text)
    with pytest.raises(WamkitError, match=r"found cond_embeds of width 20; .* takes width 0"):
        denoise(backbones["klein"], frames, replace(text, cond_embeds=torch.zeros(B, 1, 20)))
    frames, text = scene("kontext")
    with pytest.raises(WamkitError, match=r"found cond_embeds of width 0; .* takes width 20"):
        denoise(backbones["kontext"], frames, Text(text.tokens))


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (Flux2(variant="klein-4b"), 3_875_544_576),
        (Flux2(variant="klein-9b"), 9_078_581_248),
        (Flux1(variant="kontext-dev"), 11_901_408_320),
    ],
)
def test_published_sizes_have_the_names_and_shapes_of_diffusers(config: Any, count: int) -> None:
    with torch.device("meta"):
        ours, theirs = config.build(), reference(config)
    same_shapes(ours, theirs)
    assert parameters(ours) == count

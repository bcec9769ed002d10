"""Cosmos' transformer against diffusers' class: same files, same velocities, same gradients."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wamkit_cosmos import Cosmos
from wamkit_cosmos.weights import LAYOUTS

from wamkit.checkpoints.safetensors import cast
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

TINY = Cosmos(
    variant="tiny",
    layers=2,
    mlp_dim=288,
    latent_channels=4,
    text_width=20,
    qk_norm_eps=1e-5,  # what diffusers' class has
)
CONFIGS = {
    "predict2": TINY,
    "predict2-14b": TINY.model_copy(update={"rope_scale": (20 / 24, 2.0, 2.0)}),
    "predict2.5": TINY.model_copy(update={"text_stack": 28}),
    "16 fps": TINY.model_copy(update={"fps": 16.0}),
}
cases = pytest.mark.parametrize("case", CONFIGS)
B, T, H, W, L = 2, 3, 8, 6, 12  # batch, latent frames, latent height and width, text tokens


def reference(config: Cosmos) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    pytest.importorskip("torchvision", reason="diffusers' class resizes its padding mask with it")
    return diffusers.CosmosTransformer3DModel(
        in_channels=config.latent_channels + 1,
        out_channels=config.latent_channels,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.layers,
        mlp_ratio=config.mlp_dim / (config.num_heads * config.head_dim),
        text_embed_dim=config.text_width,
        adaln_lora_dim=config.modulation_rank,
        rope_scale=config.rope_scale,
        concat_padding_mask=True,
        extra_pos_embed_type=None,
        use_crossattn_projection=config.text_stack > 0,
        crossattn_proj_in_channels=config.text_stack or 1024,
        encoder_hidden_states_channels=config.text_width,
    ).eval()


def original_name(name: str) -> str:
    """The name in github.com/nvidia-cosmos/cosmos-predict2 of what diffusers calls `name`."""
    for pattern, replacement in (
        (r"^patch_embed\.proj", "x_embedder.proj.1"),
        (r"^time_embed\.t_embedder", "t_embedder.1"),
        (r"^time_embed\.norm", "t_embedding_norm"),
        (r"^norm_out\.linear_", "final_layer.adaln_modulation."),
        (r"^proj_out", "final_layer.linear"),
        (r"^transformer_blocks", "blocks"),
        (r"norm1\.linear_", "adaln_modulation_self_attn."),
        (r"norm2\.linear_", "adaln_modulation_cross_attn."),
        (r"norm3\.linear_", "adaln_modulation_mlp."),
        (r"attn1", "self_attn"),
        (r"attn2", "cross_attn"),
        (r"to_([qkv])", r"\1_proj"),
        (r"to_out\.0", "output_proj"),
        (r"norm_([qk])\b", r"\1_norm"),
        (r"ff\.net\.0\.proj", "mlp.layer1"),
        (r"ff\.net\.2", "mlp.layer2"),
    ):
        name = re.sub(pattern, replacement, name)
    return f"net.{name}"


def carried_along() -> dict[str, Tensor]:
    """What original files hold besides weights."""
    return {
        "net.accum_iteration": torch.zeros(1),
        "net.accum_video_sample_counter": torch.zeros(1),
        "net.pos_embedder.seq": torch.arange(16.0),
        "net.pos_embedder.dim_spatial_range": torch.arange(4.0),
        "net.pos_embedder.dim_temporal_range": torch.arange(4.0),
        "net.t_embedding_norm._extra_state": torch.zeros(1),
        "net.blocks.0.self_attn.q_norm._extra_state": torch.zeros(1),
    }


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    # What is normalized next is small.
    return {
        case: randomize_parameters(reference(c), small="to_q|to_k") for case, c in CONFIGS.items()
    }


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
        (folder / "original").mkdir()
        weights = {original_name(k): v for k, v in model.state_dict().items()}
        save_file({**weights, **carried_along()}, folder / "original" / "model.safetensors")
    return made


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Any]:
    return {case: built(CONFIGS[case], folders[case] / "whole") for case in CONFIGS}


def built(config: Cosmos, path: Path, **changes: Any) -> Any:
    return config.model_copy(update={"weights": str(path), **changes}).build()


def scene(
    case: str = "predict2", sigma: tuple[float, float] = (0.9, 0.4), context: int = 1
) -> tuple[Frames, Text]:
    """Frames and a prompt, the two of the batch at noise levels of their own."""
    config, generator = CONFIGS[case], torch.Generator().manual_seed(2)
    z = torch.randn(B, config.latent_channels, T, H, W, generator=generator)
    tokens = torch.randn(B, L, config.traits.text_width, generator=generator)
    levels = torch.tensor(sigma)[:, None].repeat(1, T)
    levels[:, :context] = 0
    roles = ("context",) * context + ("target",) * (T - context)
    return Frames(z, roles, counted(T), levels), Text(tokens)


def expected(
    model: Any,
    frames: Frames,
    text: Text,
    *,
    fps: float | None = None,
    announced: float = 1e-4,
    scale: float = 1.0,
) -> Tensor:
    """What diffusers' class predicts when it is called as diffusers' pipelines call it."""
    given = torch.tensor([role == "context" for role in frames.roles])
    t = torch.where(given & (frames.sigma == 0), announced, scale * frames.sigma)
    mask = given.float()[:, None, None].expand(B, 1, T, H, W)
    found: Tensor = model(
        frames.z,
        t[:, None, :, None, None],
        text.tokens,
        attention_mask=text.valid,
        fps=fps,
        condition_mask=mask,
        padding_mask=torch.zeros(1, 1, H, W),
        return_dict=False,
    )[0]
    return found


def close(found: Tensor, wanted: Tensor) -> None:
    same_values(found, wanted)


@cases
@pytest.mark.parametrize("layout", ["whole", "sharded", "original"])
@float64()
def test_velocity_equals_that_of_diffusers(
    case: str, layout: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    backbone = to_float64(built(CONFIGS[case], folders[case] / layout))
    frames, text = scene(case)
    with torch.no_grad():
        wanted = expected(references[case], frames, text, fps=CONFIGS[case].fps)
        first = denoise(backbone, frames, text)
        again = denoise(backbone, frames, text)
    assert wanted.std() > 0.3
    close(first, wanted)
    assert torch.equal(again, first)


@cases
@float64()
def test_gradients_equal_those_of_diffusers(
    case: str, references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene(case)
    theirs = partial(expected, fps=CONFIGS[case].fps)
    wanted = velocity_gradients(references[case], frames, text, theirs)
    same_gradients(velocity_gradients(backbones[case], frames, text), wanted)


@pytest.mark.parametrize("context", [0, 2, 3])
@torch.no_grad()
@float64()
def test_every_number_of_context_frames_is_marked(
    context: int, references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene(context=context)
    close(
        denoise(backbones["predict2"], frames, text), expected(references["predict2"], frames, text)
    )
    noisy = frames.at(0.3, "context")  # given, and noisy all the same
    close(
        denoise(backbones["predict2"], noisy, text), expected(references["predict2"], noisy, text)
    )


@torch.no_grad()
@float64()
def test_a_clean_context_is_announced_at_the_level_of_the_configuration(
    references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    frames, text = scene()
    exact = to_float64(built(TINY, folders["predict2"] / "whole", context_sigma=0.0))
    late = to_float64(built(TINY, folders["predict2"] / "whole", context_sigma=0.25))
    model = references["predict2"]
    close(denoise(exact, frames, text), expected(model, frames, text, announced=0.0))
    close(denoise(late, frames, text), expected(model, frames, text, announced=0.25))
    other_values(denoise(exact, frames, text), denoise(late, frames, text), 0.01)


@torch.no_grad()
@float64()
def test_a_copy_of_the_context_is_context_too(backbones: dict[str, Any]) -> None:
    backbones = to_float64(backbones)
    frames, text = scene()
    copy = Frames(frames.z, ("context'", "target'", "target'"), frames.times, frames.sigma)
    other = Frames(frames.z, ("target",) * T, frames.times, frames.sigma)
    wanted = denoise(backbones["predict2"], frames, text)
    assert torch.equal(denoise(backbones["predict2"], copy, text), wanted)
    other_values(denoise(backbones["predict2"], other, text), wanted, 0.01)


@torch.no_grad()
@float64()
def test_queries_and_keys_have_the_epsilon_of_the_original_by_default(
    references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    frames, text = scene()
    original = to_float64(
        built(TINY, folders["predict2"] / "whole", qk_norm_eps=Cosmos().qk_norm_eps)
    )
    model = reference(TINY)
    model.load_state_dict(references["predict2"].state_dict())
    for name, module in model.named_modules():
        if name.endswith(("norm_q", "norm_k")):
            module.eps = 1e-6
    found = denoise(original, frames, text)
    close(found, expected(model, frames, text))
    other_values(found, expected(references["predict2"], frames, text))


@torch.no_grad()
@float64()
def test_time_counts_in_latent_frames_unless_images_a_second_are_given(
    references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene()
    plain = expected(references["predict2"], frames, text)
    scaled = expected(references["predict2"], frames, text, fps=16)
    other_values(plain, scaled)
    assert Cosmos().fps is None
    close(denoise(backbones["predict2"], frames, text), plain)
    close(denoise(backbones["16 fps"], frames, text), scaled)
    faster = replace(frames, times=tuple(t * 24 / 16 for t in frames.times))
    close(denoise(backbones["predict2"], faster, text), scaled)


@torch.no_grad()
@float64()
def test_noise_levels_go_in_as_they_are_not_in_thousandths(
    references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene(context=0)
    wanted = expected(references["predict2"], frames, text)
    close(denoise(backbones["predict2"], frames, text), wanted)
    thousands = expected(references["predict2"], frames, text, scale=1000)
    other_values(thousands, wanted, 0.01)


@torch.no_grad()
def test_channels_come_first_in_a_patch_on_the_way_in_and_last_on_the_way_out(
    folders: dict[str, Path],
) -> None:
    backbone, (frames, text) = built(TINY, folders["predict2"] / "whole"), scene()
    c, i, j, t, row, column = 2, 1, 0, 1, 3, 2
    token = (t * (H // 2) + row) * (W // 2) + column
    pixel = (0, c, t, 2 * row + i, 2 * column + j)
    weight = torch.zeros_like(backbone.patch_embed.proj.weight)
    weight[:, (c * 2 + i) * 2 + j] = 1
    backbone.patch_embed.proj.weight.copy_(weight)
    video = embed_video(PassRunner(), backbone, frames, text)
    x = video.frames.tokens
    assert torch.equal(x[0, token], frames.z[pixel].expand_as(x[0, token]))
    weight = torch.zeros_like(backbone.proj_out.weight)
    weight[(i * 2 + j) * TINY.latent_channels + c] = 1
    backbone.proj_out.weight.copy_(weight)
    out = backbone.final_layer(x, video.modulation, video.clip)
    rows, columns = torch.arange(H) % 2 == i, torch.arange(W) % 2 == j
    inside = torch.zeros_like(out, dtype=torch.bool)
    inside[:, c] = rows[:, None] & columns[None, :]
    assert (out[pixel] != 0) and not out[~inside].any()


@torch.no_grad()
@float64()
def test_masked_text_tokens_are_masked_as_in_diffusers(
    references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene("predict2.5")
    valid = torch.arange(L) < torch.tensor([[5], [9]])
    masked = Text(text.tokens, valid)
    found = denoise(backbones["predict2.5"], frames, masked)
    close(found, expected(references["predict2.5"], frames, masked))
    other_values(found, denoise(backbones["predict2.5"], frames, text), 0.01)


@torch.no_grad()
@float64()
def test_padding_that_is_attended_may_come_as_one_token_that_counts_for_many(
    references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    frames, text = scene()
    text.tokens[:, 5:] = 0
    repeats = torch.ones(B, 6)
    repeats[:, 5] = L - 5
    short = Text(text.tokens[:, :6], repeats=repeats)
    wanted = expected(references["predict2"], frames, text)
    close(denoise(backbones["predict2"], frames, text), wanted)
    close(denoise(backbones["predict2"], frames, short), wanted)


@torch.no_grad()
@float64()
def test_a_frame_is_placed_by_its_time_not_its_index(backbones: dict[str, Any]) -> None:
    backbones = to_float64(backbones)
    backbone, (frames, text) = backbones["predict2"], scene()
    order = [2, 0, 1]
    moved = Frames(
        frames.z[:, :, order],
        tuple(frames.roles[i] for i in order),
        tuple(frames.times[i] + 0.5 for i in order),  # distances matter, fractions are allowed
        frames.sigma[:, order],
    )
    wanted = denoise(backbone, frames, text)
    close(denoise(backbone, moved, text), wanted[:, :, order])
    stretched = denoise(backbone, replace(moved, times=tuple(3 * t for t in moved.times)), text)
    other_values(stretched, wanted[:, :, order])


@cases
@torch.no_grad()
def test_bfloat16_stays_near_float32(
    case: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    backbone: Any = cast(built(CONFIGS[case], folders[case] / "whole"), torch.bfloat16)
    kept = {n for n, p in backbone.named_parameters() if p.dtype == torch.float32}
    assert {"time_embed.norm.weight", "transformer_blocks.0.attn1.norm_q.weight"} <= kept
    assert not any("linear" in name for name in kept if not name.startswith("time_embed"))
    frames, text = scene(case, sigma=(1.0, 0.5))
    wanted = expected(references[case], frames, text, fps=CONFIGS[case].fps)
    found = denoise(backbone, frames, text)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).norm() / wanted.norm() < 0.03


@cases
def test_original_names_become_those_of_diffusers_own_converter(
    case: str, references: dict[str, Any]
) -> None:
    from diffusers.loaders.single_file_utils import (
        convert_cosmos_transformer_checkpoint_to_diffusers,
    )

    names = [original_name(name) for name in references[case].state_dict()]
    marks = {name: torch.tensor(i) for i, name in enumerate([*names, *carried_along()])}
    converted = convert_cosmos_transformer_checkpoint_to_diffusers(marks)
    wanted = {key: names[int(mark)] for key, mark in converted.items()}
    dialect = LAYOUTS[1]
    assert {dialect.rename(name)[0]: name for name in names} == wanted
    assert not [name for name in carried_along() if dialect.rename(name)]
    bare = [name.removeprefix("net.") for name in names]
    assert [dialect.rename(name) for name in bare] == [dialect.rename(name) for name in names]


def test_every_linear_layer_is_called_as_a_module(backbones: dict[str, Any]) -> None:
    backbone = backbones["predict2.5"]
    assert not unused_modules(backbone, lambda: denoise(backbone, *scene("predict2.5")))

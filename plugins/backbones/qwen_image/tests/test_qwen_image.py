"""Qwen-Image against diffusers' class: same files, same velocities, same gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wamkit_qwen_image import SIZES, QwenImage
from wamkit_qwen_image.backbone import QwenImageBackbone

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.config.spec import parse_part
from wamkit.engine.layers import patches, unpatched
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import denoise
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

B, T, H, W, L = 2, 3, 6, 10, 7  # batch, images, latent height and width, text tokens
AS_PUBLISHED = QwenImage(variant="tiny", text_sigma="target")
ROLES = ("context", "context", "target")
LEVELS = torch.tensor([0.951, 0.0375])
both = pytest.mark.parametrize("variant", ["edit-2509", "edit-2511"])


def reference(variant: str) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    return diffusers.QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(8, 12, 12),
        zero_cond_t=variant == "edit-2511",
    ).eval()


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    small = "to_q|to_k|add_q|add_k|img_in"  # what is normalized next
    return {
        name: randomize_parameters(reference(name), small) for name in ("edit-2509", "edit-2511")
    }


@pytest.fixture(scope="module")
@float64()
def wide(references: dict[str, Any]) -> dict[str, Any]:
    """The references in float64, rotary positions too, which are computed when one is built."""
    made = {name: reference(name) for name in references}
    for name, model in made.items():
        model.load_state_dict(references[name].state_dict())
    return made


@pytest.fixture(scope="module")
def folder(references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights, the same in both references, whole and in shards."""
    place: Path = tmp_path_factory.mktemp("qwen_image")
    references["edit-2509"].save_pretrained(place / "whole" / "transformer")
    references["edit-2511"].save_pretrained(place / "sharded", max_shard_size="400KB")
    assert len(list((place / "sharded").glob("*.safetensors"))) > 1
    return place


def built(folder: Path, config: QwenImage = AS_PUBLISHED) -> Any:
    return config.model_copy(update={"weights": str(folder)}).build().eval()


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Any:
    return built(folder / "whole")


def scene(variant: str, levels: Tensor = LEVELS) -> tuple[Frames, Text]:
    """Two reference images and a target, and an instruction that is shorter in the second."""
    generator = torch.Generator().manual_seed(2)
    sigma = levels[:, None].repeat(1, T)
    if variant == "edit-2511":
        sigma[:, :2] = 0
    z = torch.randn(B, 16, T, H, W, generator=generator)
    tokens = torch.randn(B, L, 24, generator=generator)
    valid = torch.arange(L) < torch.tensor([[L], [4]])
    return Frames(z, ROLES, counted(T), sigma), Text(tokens, valid)


def expected(model: Any, frames: Frames, text: Text) -> Tensor:
    """What diffusers' class predicts for the target [B, C, h, w]; it wants the target first."""
    tokens = torch.cat([patches(frames.z[:, :, [i]], (1, 2, 2)) for i in (2, 0, 1)], 1)
    sizes = [[(1, H // 2, W // 2)] * T] * B
    out = model(
        tokens, text.tokens, text.valid, frames.sigma[:, 2], img_shapes=sizes, return_dict=False
    )[0]
    made, grid = out[:, : H * W // 4], (1, H // 2, W // 2)
    return unpatched(made, grid, (2, 2), channels_last=False)[:, :, 0]


def target(backbone: Any, frames: Frames, text: Text) -> Tensor:
    return denoise(backbone, frames, text)[:, :, 2]


@both
@pytest.mark.parametrize("layout", ["whole", "sharded"])
@float64()
def test_velocity_equals_that_of_diffusers(
    variant: str, layout: str, wide: dict[str, Any], folder: Path
) -> None:
    backbone = to_float64(built(folder / layout))
    frames, text = scene(variant)
    with torch.no_grad():
        wanted = expected(wide[variant], frames, text)
        first = target(backbone, frames, text)
        again = target(backbone, frames, text)
    assert wanted.std() > 0.3
    same_values(first, wanted)
    assert torch.equal(again, first)


@both
@float64()
def test_gradients_equal_those_of_diffusers(
    variant: str, wide: dict[str, Any], backbone: Any
) -> None:
    backbone = to_float64(backbone)
    frames, text = scene(variant)
    wanted = velocity_gradients(wide[variant], frames, text, expected)
    found = velocity_gradients(backbone, frames, text, target)
    same_gradients(found, wanted, backbone.silent)


@pytest.mark.parametrize("variant", ["edit-2509", "edit-2511"])
def test_published_sizes_have_the_names_and_shapes_of_diffusers(variant: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    config = QwenImage.model_validate({"variant": variant})
    with torch.device("meta"):
        ours = QwenImageBackbone(config)
        theirs = diffusers.QwenImageTransformer2DModel()
    same_shapes(ours, theirs)
    assert (len(ours.state_dict()), parameters(ours)) == (1933, 20_430_401_088)


def test_noise_levels_are_never_rounded_to_bfloat16() -> None:
    torch.manual_seed(0)
    # 0.951 is 0.9492 if it is rounded to bfloat16 before it is multiplied by 1000.
    model: Any = cast(AS_PUBLISHED.build(), torch.bfloat16)
    near, exact = torch.tensor([0.951]), torch.tensor([0.951], dtype=torch.bfloat16).float()
    with torch.no_grad():
        found, rounded = model.time_text_embed(near), model.time_text_embed(exact)
        whole = AS_PUBLISHED.build()
        whole.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
        wanted = whole.time_text_embed(near)
    assert found.dtype == torch.float32
    same_values(found, wanted)
    other_values(rounded, wanted)


def test_bfloat16_stays_near_float32(references: dict[str, Any], folder: Path) -> None:
    backbone: Any = cast(built(folder / "whole"), torch.bfloat16)
    kept = {n for n, p in backbone.named_parameters() if p.dtype == torch.float32}
    assert "transformer_blocks.0.attn.norm_added_q.weight" in kept and "txt_norm.weight" in kept
    assert not any("norm_out" in name or "_mod." in name for name in kept)
    frames, text = scene("edit-2511")  # of levels that bfloat16 has no numbers for
    with torch.no_grad():
        wanted = expected(references["edit-2511"], frames, text)
        found = target(backbone, frames, text)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).norm() / wanted.norm() < 0.03


@float64()
def test_a_reference_is_known_by_its_time_and_the_target_by_its_role(backbone: Any) -> None:
    backbone = to_float64(backbone)
    frames, text = scene("edit-2511")
    order = [2, 1, 0]
    moved = Frames(
        frames.z[:, :, order],
        ("target", "context", "context"),
        (9.0, 1.0, 0.0),
        frames.sigma[:, order],
    )
    swapped = replace(frames, times=(1.0, 0.0, 2.0))
    with torch.no_grad():
        wanted = denoise(backbone, frames, text)
        same_values(denoise(backbone, moved, text), wanted[:, :, order])
        other_values(denoise(backbone, swapped, text), wanted, 0.01)


@float64()
def test_text_on_the_level_of_the_target_is_clean_where_there_is_none(folder: Path) -> None:
    frames, text = scene("edit-2511")
    clean = to_float64(
        built(folder / "whole", AS_PUBLISHED.model_copy(update={"text_sigma": "clean"}))
    )
    published = to_float64(built(folder / "whole"))
    with torch.no_grad():
        one, two = (denoise(model, frames, text) for model in (clean, published))
        other_values(one, two, 0.01)
        frames = frames.only("context")
        assert torch.equal(denoise(clean, frames, text), denoise(published, frames, text))


@float64()
def test_text_and_references_are_computed_once_for_all_steps(folder: Path) -> None:
    backbone = to_float64(built(folder / "whole", QwenImage(variant="tiny")))
    frames, text = scene("edit-2511")
    sees = {
        "text": {"text", "context"},
        "context": {"text", "context"},
        "target": {"text", "context", "target"},
    }
    with torch.no_grad():
        runner = PassRunner()
        first = embed_video(runner, backbone, frames.only("context"), text)
        _, cache = runner.run(first.streams, sees, keep=("text", "context"), prefill=True)
        for level in (0.9, 0.4):
            noisy = frames.at(level, "target")
            step = embed_video(runner, backbone, noisy.only("target"), text, with_text=False)
            assert [s.role for s in step.frames.segments] == ["target"]
            (x,), _ = runner.run(step.streams, sees, cache=cache)
            found = backbone.final_layer(x, step.modulation, step.clip)
            wanted = denoise(backbone, noisy, text, sees)[:, :, 2:]
            same_values(found, wanted)


def test_every_linear_layer_is_called_as_a_module(backbone: Any) -> None:
    assert not unused_modules(backbone, lambda: denoise(backbone, *scene("edit-2511")))


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    large, tiny = QwenImage(), QwenImage().tiny()
    assert large.variant == "edit-2511" and large.axes == SIZES["edit-2511"]["axes"]
    assert QwenImage(variant="edit-2509", layers=12).layers == 12
    assert tiny.traits.latent_channels == large.traits.latent_channels == 16
    assert (large.traits.frames, large.traits.text) == ("one", "stream")
    assert parameters(tiny.build()) < 500_000
    written = QwenImage(variant="tiny", axes=(4, 6, 6))
    assert parse_part("backbone", written.model_dump(mode="json")) == written
    with pytest.raises(WamkitError, match=r"input should be a multiple of 2, found 3"):
        parse_part("backbone", {"name": "qwen_image", "axes": [3, 6, 6]})


def test_a_file_that_lacks_a_tensor_or_belongs_to_another_model_is_refused(tmp_path: Path) -> None:
    state = dict(AS_PUBLISHED.build().state_dict())
    del state["txt_norm.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WamkitError, match=r"1 missing: txt_norm\.weight"):
        built(tmp_path)
    save_file({"double_blocks.0.img_mod.lin.weight": torch.zeros(1)}, tmp_path / "flux.safetensors")
    with pytest.raises(WamkitError, match="in no layout known here: found double_blocks"):
        built(tmp_path / "flux.safetensors")

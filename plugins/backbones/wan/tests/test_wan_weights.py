"""Wan's files: published sizes are met, wrong files are refused by name, right ones are mapped."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wamkit_wan import SIZES, Wan, WanVAE21, WanVAE22
from wamkit_wan.backbone import WanBackbone

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import parameters, save
from wamkit.config.spec import parse_part
from wamkit.testing.parity import same_shapes

PUBLISHED = {
    "2.1-t2v-1.3b": 1_418_996_800,
    "2.1-t2v-14b": 14_288_491_584,
    "2.1-i2v-14b": 16_394_878_784,
    "2.2-ti2v-5b": 4_999_787_712,
    "2.2-t2v-a14b": 14_288_491_584,
    "2.2-i2v-a14b": 14_288_901_184,
}
TINY = Wan(variant="tiny", layers=2)
FILE = "diffusion_pytorch_model.safetensors"


def load(path: Path, config: Wan = TINY) -> Any:
    return config.model_copy(update={"weights": str(path)}).build()


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(TINY.build().state_dict())


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with enough original names for the layout to be recognized as the original one."""
    names = {
        "condition_embedder.time_proj.weight": "time_projection.1.weight",
        "condition_embedder.time_proj.bias": "time_projection.1.bias",
        "blocks.0.attn1.to_q.weight": "blocks.0.self_attn.q.weight",
        "scale_shift_table": "head.modulation",
    }
    return {names.get(name, name): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes_have_the_names_and_shapes_of_diffusers(variant: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    config = Wan.model_validate({"variant": variant})
    with torch.device("meta"):
        ours = WanBackbone(config)
        theirs = diffusers.WanTransformer3DModel(
            num_attention_heads=config.num_heads,
            attention_head_dim=128,
            in_channels=config.latent_channels + config.cond_channels,
            out_channels=config.latent_channels,
            text_dim=4096,
            ffn_dim=config.mlp_dim,
            num_layers=config.layers,
            image_dim=config.cond_embeds_width or None,
            added_kv_proj_dim=5120 if config.cond_embeds_width else None,
        )
    same_shapes(ours, theirs)
    assert parameters(ours) == PUBLISHED[variant]


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    large = Wan(variant="2.1-i2v-14b").model_dump()
    assert {key: large[key] for key in SIZES["2.1-i2v-14b"]} == SIZES["2.1-i2v-14b"]
    assert Wan(variant="2.2-ti2v-5b", layers=12).layers == 12
    assert Wan.model_validate({"layers": None}).layers == SIZES["2.2-ti2v-5b"]["layers"]
    written = Wan(variant="2.1-t2v-14b", num_heads=20)
    assert parse_part("backbone", written.model_dump(mode="json")) == written
    with pytest.raises(WamkitError, match=r"backbone\.variant: input should be '2\.1-t2v-1\.3b'"):
        parse_part("backbone", {"name": "wan", "variant": "2.1"})


@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_tiny_form_of_a_variant_takes_the_same_latents_guides_and_images(variant: str) -> None:
    config = Wan.model_validate({"variant": variant})
    large, tiny = config.traits, config.tiny().traits
    assert tiny.latent_channels == large.latent_channels
    assert tiny.cond_channels == large.cond_channels
    assert (tiny.cond_embeds_width > 0) == (large.cond_embeds_width > 0)
    assert parameters(config.tiny().build()) < 500_000


@pytest.mark.parametrize("config", [WanVAE21(), WanVAE22()])
def test_a_vae_is_built_with_the_values_its_configuration_states(config: Any) -> None:
    vae = config.tiny().build()
    assert (vae.channels, vae.stride) == (config.channels, config.stride)


def test_what_is_saved_is_loaded_again_bit_by_bit(tmp_path: Path) -> None:
    model = TINY.build()
    save(model, tmp_path / "model.safetensors")
    found = load(tmp_path).state_dict()
    assert set(found) == set(model.state_dict())
    assert all(torch.equal(found[name], t) for name, t in model.state_dict().items())


def test_every_problem_of_a_file_is_listed_by_name(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    del state["blocks.1.attn2.to_out.0.bias"]
    state["blocks.7.ffn.net.2.bias"] = torch.zeros(72)
    state["proj_out.weight"] = torch.zeros(64, 71)
    save_file(state, tmp_path / FILE)
    with pytest.raises(WamkitError) as error:
        load(tmp_path)
    assert error.value.what == (
        f"the weights at {tmp_path} do not fit this model\n"
        "  1 missing: blocks.1.attn2.to_out.0.bias\n"
        "  1 unexpected: blocks.7.ffn.net.2.bias\n"
        "  1 of another shape (found for expected): proj_out.weight [64, 71] for [64, 72]"
    )


def test_a_tensor_that_an_original_file_lacks_is_named(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    del state["blocks.0.attn1.to_q.weight"]
    save_file({**original(state), "img_emb.emb_pos": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(WamkitError) as error:
        load(tmp_path)
    assert "1 missing: blocks.0.attn1.to_q.weight\n" in error.value.what
    assert error.value.what.endswith("1 unexpected: img_emb.emb_pos")


def test_files_of_another_model_are_in_no_layout(tmp_path: Path) -> None:
    save_file({"decoder.conv1.weight": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(WamkitError, match=r"in no layout known here: found decoder\.conv1\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_single_file_may_carry_a_prefix(
    prefix: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    for layout, tensors in {"diffusers": state, "original": original(state)}.items():
        file = tmp_path / f"{layout}.safetensors"
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
        found = load(file).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_the_unused_norm_of_early_image_to_video_files_is_left_out(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"cond_channels": 20, "cond_embeds_width": 16})
    state = config.build().state_dict()
    extra = {"blocks.0.attn2.norm_added_q.weight": torch.ones(72)}
    save_file({**state, **extra}, tmp_path / FILE)
    assert set(load(tmp_path, config).state_dict()) == set(state)


def test_an_absent_shard_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    folder = tmp_path / "transformer"
    folder.mkdir()
    shards = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(state)}
    for shard in set(shards.values()):
        save_file({n: t for n, t in state.items() if shards[n] == shard}, folder / shard)
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": shards}))
    assert set(load(tmp_path).state_dict()) == set(state)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(WamkitError, match=r"lacks 1 of 2 shards: part-1\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-100], r"is truncated: found .* \(100 bytes missing\)"),
        (lambda data: data[:20], "its header does not fit into it"),
        (lambda data: data[:8] + b"\xff" * 64 + data[72:], "its header is garbled"),
        (lambda data: data + b"\0", "is too long: found"),
        (lambda data: b"", r"is empty \(0 bytes\)"),
    ],
)
def test_a_damaged_file_is_refused(
    damage: Any, reason: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_file(state, tmp_path / FILE)
    (tmp_path / FILE).write_bytes(damage((tmp_path / FILE).read_bytes()))
    with pytest.raises(WamkitError, match=reason):
        load(tmp_path)


def test_loading_maps_the_file_and_keeps_its_dtype(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_file({name: t.bfloat16() for name, t in state.items()}, tmp_path / FILE)
    data = (tmp_path / FILE).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    offsets = {n: e["data_offsets"][0] for n, e in json.loads(data[8 : 8 + length]).items()}
    found = dict(load(tmp_path).named_parameters())
    assert all(p.dtype == torch.bfloat16 and p.requires_grad for p in found.values())
    # Tensors that lie in memory as they lie in the file are one mapping of it.
    starts = {p.data_ptr() - offsets[name] for name, p in found.items()}
    assert len(starts) == 1
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path / FILE) in maps.read_text()

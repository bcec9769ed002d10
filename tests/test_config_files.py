"""A folder of weights alone builds what it holds; a spec that says otherwise is a conflict."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from wamkit_wan.latents import WAN22_MEAN, WAN22_STD

from wamkit import WamkitError, load_part
from wamkit.config.check import check
from wamkit.config.configs import config_conflicts
from wamkit.config.spec import parse_part, read
from wamkit.errors import SpecError

FILE = "diffusion_pytorch_model.safetensors"
TOY = Path(__file__).parent.parent / "examples" / "toy.toml"

# Part, diffusers' class, what it is made of, and what the spec must then say.
WAN = {
    "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 9, "out_channels": 4,
    "text_dim": 20, "ffn_dim": 80, "num_layers": 2, "rope_max_seq_len": 64,
}  # fmt: skip
COSMOS = {
    "in_channels": 5, "out_channels": 4, "num_attention_heads": 3, "attention_head_dim": 24,
    "num_layers": 2, "mlp_ratio": 3.0, "text_embed_dim": 20, "adaln_lora_dim": 8,
    "max_size": (16, 32, 32), "rope_scale": (1.0, 2.0, 2.0), "extra_pos_embed_type": None,
}  # fmt: skip
LTX = {
    "in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 16,
    "cross_attention_dim": 64, "num_layers": 3, "caption_channels": 20,
}  # fmt: skip
LTX2 = {
    **LTX, "audio_in_channels": 6, "audio_out_channels": 6, "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 8, "audio_cross_attention_dim": 32, "rope_type": "split",
}  # fmt: skip
NEWER = {
    "gated_attn": True, "cross_attn_mod": True, "audio_gated_attn": True,
    "audio_cross_attn_mod": True, "use_prompt_embeddings": False, "perturbed_attn": True,
}  # fmt: skip
FLUX = {
    "num_layers": 1, "num_single_layers": 3, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 24,
}  # fmt: skip
FLUX2 = {**FLUX, "in_channels": 16, "axes_dims_rope": (8, 8, 8, 8), "guidance_embeds": False}
FLUX1 = {
    **FLUX, "in_channels": 64, "axes_dims_rope": (4, 14, 14), "guidance_embeds": True,
    "pooled_projection_dim": 20,
}  # fmt: skip
QWEN = {
    "in_channels": 16, "out_channels": 4, "num_layers": 3, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
BACKBONES: dict[str, tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = {
    "wan": ("wan", "WanTransformer3DModel", WAN, {"cond_channels": 5, "mlp_dim": 80}),
    "wan with images": (
        "wan", "WanTransformer3DModel", {**WAN, "image_dim": 16, "added_kv_proj_dim": 48},
        {"cond_embeds_width": 16},
    ),
    "cosmos": (
        "cosmos", "CosmosTransformer3DModel", COSMOS,
        {"mlp_dim": 216, "rope_scale": (1.0, 2.0, 2.0), "text_stack": 0},
    ),
    "cosmos 2.5": (
        "cosmos", "CosmosTransformer3DModel",
        {
            **COSMOS, "use_crossattn_projection": True, "crossattn_proj_in_channels": 28,
            "encoder_hidden_states_channels": 20,
        },
        {"text_stack": 28, "text_width": 20},
    ),
    "ltx": ("ltx", "LTXVideoTransformer3DModel", LTX, {"latent_channels": 8, "layers": 3}),
    "ltx2": ("ltx2", "LTX2VideoTransformer3DModel", LTX2, {"design": "2.0", "text_width": 20}),
    "ltx2.3": (
        "ltx2", "LTX2VideoTransformer3DModel", {**LTX2, **NEWER},
        {"design": "2.3", "text_width": 64},
    ),
    "flux2": ("flux2", "Flux2Transformer2DModel", FLUX2, {"guidance": None, "single_layers": 3}),
    "flux2 with a guidance scale": (
        "flux2", "Flux2Transformer2DModel", {**FLUX2, "guidance_embeds": True}, {"guidance": 4.0},
    ),
    "flux1": (
        "flux1", "FluxTransformer2DModel", FLUX1, {"cond_embeds_width": 20, "double_layers": 1},
    ),
    "qwen_image": ("qwen_image", "QwenImageTransformer2DModel", QWEN, {"axes": (8, 12, 12)}),
}  # fmt: skip
STAGES = {"block_out_channels": (4, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
KL = {
    **STAGES, "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
VAES: dict[str, tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = {
    "wan2.1": ("wan2.1", "AutoencoderKLWan", {"base_dim": 4}, {"width": "tiny"}),
    "of Qwen-Image": ("wan2.1", "AutoencoderKLQwenImage", {"base_dim": 4}, {"width": "tiny"}),
    "wan2.2": (
        "wan2.2", "AutoencoderKLWan",
        {
            "base_dim": 4, "decoder_base_dim": 6, "z_dim": 48, "is_residual": True,
            "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16,
            "latents_mean": list(WAN22_MEAN), "latents_std": list(WAN22_STD),
        },
        {"width": "tiny"},
    ),
    "flux1": (
        "flux1", "AutoencoderKL",
        {
            **KL, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
            "use_quant_conv": False, "use_post_quant_conv": False,
        },
        {"width": "tiny"},
    ),
    "flux2": ("flux2", "AutoencoderKLFlux2", KL, {"width": "tiny"}),
    "taef1": (
        "taef1", "AutoencoderTiny",
        {
            "latent_channels": 16, "encoder_block_out_channels": (6,) * 4,
            "decoder_block_out_channels": (6,) * 4,
        },
        {"width": "tiny"},
    ),
}  # fmt: skip
ALL = [("backbone", *b) for b in BACKBONES.values()] + [("vae", *v) for v in VAES.values()]


@pytest.mark.parametrize(
    ("kind", "name", "cls", "given", "expected"), ALL, ids=[*BACKBONES, *(f"vae {v}" for v in VAES)]
)
def test_a_folder_alone_builds_what_it_holds(
    kind: Any, name: str, cls: str, given: Any, expected: Any, tmp_path: Path
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="saves folders with diffusers")
    torch.manual_seed(0)
    theirs = getattr(diffusers, cls)(**given)
    theirs.save_pretrained(tmp_path / {"backbone": "transformer", "vae": "vae"}[kind])
    part = parse_part(kind, {"name": name, "weights": str(tmp_path)})
    assert {key: getattr(part, key) for key in expected} == expected
    assert not list(config_conflicts(part))
    made, state = load_part(kind, part).state_dict(), theirs.state_dict()
    assert made.keys() <= state.keys() or kind == "vae"
    assert all(torch.equal(made[k], state[k]) for k in made.keys() & state.keys())
    again = parse_part(kind, part.model_dump(mode="json"))
    assert again == part  # with every value written out it agrees with its folder


@pytest.mark.parametrize(
    ("name", "cls", "given", "expected"), list(BACKBONES.values())[::3], ids=list(BACKBONES)[::3]
)
def test_a_size_that_contradicts_the_folder_is_a_conflict_before_weights_are_read(
    name: str, cls: str, given: Any, expected: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": cls, **given}))
    table = {"name": name, "weights": str(tmp_path)}
    part = parse_part("backbone", table)
    heads = part.traits.num_heads  # type: ignore[attr-defined]
    raw = read(TOY) | {"backbone": table | {"num_heads": heads + 1}}
    found = [c for c in check(raw) if "backbone.num_heads" in c.between]
    assert len(found) == 1 and found[0].between == ("backbone.num_heads", "backbone.weights")
    assert f"num_heads = {heads + 1}" in found[0].why and f"says {heads}" in found[0].why
    assert "leave backbone.num_heads out" in found[0].hint and "or name weights" in found[0].hint
    with pytest.raises(SpecError, match="the spec says num_heads"):
        parse_part("backbone", raw["backbone"])
    assert not [c for c in check(raw | {"backbone": table}) if "backbone.num_heads" in c.between]


PUBLISHED = {
    "_class_name": "WanModel", "dim": 1536, "eps": 1e-6, "ffn_dim": 8960, "freq_dim": 256,
    "in_dim": 16, "model_type": "t2v", "num_heads": 12, "num_layers": 30, "out_dim": 16,
    "text_len": 512,
}  # fmt: skip


def _wan(folder: Path, **change: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED | change))
    return {"name": "wan", "weights": str(folder)}


def test_the_original_layout_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    part: Any = parse_part("backbone", _wan(tmp_path))
    assert (part.variant, part.layers, part.num_heads) == ("2.1-t2v-1.3b", 30, 12)
    assert (part.head_dim, part.mlp_dim, part.text_width) == (128, 8960, 4096)
    large = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
    part = parse_part("backbone", _wan(tmp_path, **large, in_dim=36, model_type="i2v"))
    assert (part.variant, part.cond_channels, part.cond_embeds_width) == ("2.1-i2v-14b", 20, 1280)
    for expert in ("high_noise_model", "low_noise_model"):
        _wan(tmp_path / "two" / expert, **large, in_dim=36, model_type="i2v")
    part = parse_part("backbone", {"name": "wan", "weights": str(tmp_path / "two")})
    assert (part.variant, part.cond_channels, part.cond_embeds_width) == ("2.2-i2v-a14b", 20, 0)


def test_what_the_files_hold_decides_where_the_original_configuration_is_silent(
    tmp_path: Path,
) -> None:
    table = _wan(tmp_path, model_type="i2v", in_dim=36)
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(1)}, tmp_path / FILE)
    part: Any = parse_part("backbone", table)
    assert part.cond_embeds_width == 0


def test_a_variant_that_is_written_must_be_that_of_the_folder(tmp_path: Path) -> None:
    table = _wan(tmp_path) | {"variant": "2.1-t2v-14b"}
    with pytest.raises(SpecError) as error:
        parse_part("backbone", table)
    (conflict,) = error.value.conflicts
    assert conflict.between == ("backbone.variant", "backbone.weights")
    assert "layers = 40 for 30" in conflict.why and "num_heads = 40 for 12" in conflict.why
    assert 'variant = "2.1-t2v-1.3b"' in conflict.hint and "leave backbone.variant out" in (
        conflict.hint
    )
    assert parse_part("backbone", table | {"variant": "2.1-t2v-1.3b"})


@pytest.mark.parametrize(
    ("kind", "name", "config", "message"),
    [
        ("backbone", "wan", {"_class_name": "UNet2DConditionModel"}, "of a UNet2DConditionModel"),
        ("backbone", "wan", {"_class_name": "WanVACETransformer3DModel"}, "WanVACETransformer3D"),
        ("backbone", "wan", {"_class_name": "CosmosTransformer3DModel", **COSMOS}, "cosmos"),
        ("backbone", "wan", {"_class_name": "WanTransformer3DModel"}, "lacks a setting"),
        ("backbone", "wan", {**PUBLISHED, "patch_size": [1, 4, 4]}, r"patch_size = \[1, 4, 4\]"),
        ("backbone", "cosmos", {"_class_name": "CosmosTransformer3DModel", **COSMOS,
                                "in_channels": 4}, "Text2Image"),
        ("backbone", "flux2", {"_class_name": "FluxTransformer2DModel", **FLUX1}, "flux1"),
        ("backbone", "timm_vit", {"architecture": "resnet50"}, "that of a resnet50"),
        ("vae", "wan2.1", {"_class_name": "AutoencoderKLWan", "base_dim": 4, "z_dim": 48,
                           "decoder_base_dim": 6, "is_residual": True}, "z_dim = 48 for 16"),
        ("vae", "wan2.1", {"_class_name": "AutoencoderKLWan", "base_dim": 48}, "48 and 48"),
        ("vae", "flux1", {"_class_name": "AutoencoderKL", **KL, "latent_channels": 4}, "= 4 for"),
    ],
)  # fmt: skip
def test_the_configuration_of_another_model_is_called_by_its_name(
    kind: str, name: str, config: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match=message) as error:
        parse_part(kind, {"name": name, "weights": str(tmp_path)})
    assert all(conflict.hint for conflict in error.value.conflicts)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("wan2.2", "latents_mean", [*WAN22_MEAN[:7], 0.5, *WAN22_MEAN[8:]], r"latents_mean\[7\]"),
        ("wan2.2", "latents_std", [1.0] * 48, r"latents_std\[0\] = 1.0 for 0.4765"),
        ("wan2.2", "latents_std", [1.0], "latents_std"),
        ("flux2", "batch_norm_eps", 1e-5, "batch_norm_eps"),
        ("taef1", "scaling_factor", 0.5, "scaling_factor = 0.5 for 1.0"),
    ],
)
def test_constants_that_leave_no_trace_in_the_weights_are_compared(
    name: str, key: str, value: Any, message: str, tmp_path: Path
) -> None:
    _, cls, given, _ = VAES[name]
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"_class_name": cls, **given, key: value}))
    with pytest.raises(SpecError, match=message):
        parse_part("vae", {"name": name, "weights": str(tmp_path)})
    if isinstance(written := given.get(key), list):  # the last digit of float32 is no difference
        rounded = torch.tensor(written).double().tolist()
        file.write_text(json.dumps({"_class_name": cls, **given, key: rounded}))
        assert parse_part("vae", {"name": name, "weights": str(tmp_path)})


def test_the_part_that_reads_a_folder_is_offered(tmp_path: Path) -> None:
    config = {"_class_name": "CosmosTransformer3DModel", **COSMOS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match=r'set name = "cosmos" in \[backbone\]'):
        parse_part("backbone", {"name": "wan", "weights": str(tmp_path)})


def test_in_a_pipeline_a_part_is_not_offered_for_its_neighbor(tmp_path: Path) -> None:
    for folder, (_, cls, given, _) in (("transformer", BACKBONES["wan"]), ("vae", VAES["wan2.1"])):
        (tmp_path / folder).mkdir()
        text = json.dumps({"_class_name": cls, **given, "latents_std": [1.0] * 16})
        (tmp_path / folder / "config.json").write_text(text)
    with pytest.raises(SpecError, match="latents_std") as error:
        parse_part("vae", {"name": "wan2.1", "weights": str(tmp_path)})
    assert error.value.conflicts[0].hint == "name weights of wan2.1 with those settings"


def test_timm_configurations_name_a_variant_and_its_pixels(tmp_path: Path) -> None:
    about = {"tag": "mae", "mean": [0.485, 0.456, 0.406]}
    config = {"architecture": "vit_base_patch16_224", "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    part: Any = parse_part("backbone", {"name": "timm_vit", "weights": str(tmp_path)})
    assert (part.variant, part.pixels) == ("vit_base_patch16_224.mae", "imagenet")
    with pytest.raises(SpecError, match="the spec says pixels = 'half'"):
        parse_part("backbone", {"name": "timm_vit", "weights": str(tmp_path), "pixels": "half"})


def test_omnigen2_is_read_from_its_own_configuration(tmp_path: Path) -> None:
    config = {
        "_class_name": "OmniGen2Transformer2DModel", "patch_size": 2, "in_channels": 4,
        "hidden_size": 96, "num_layers": 3, "num_refiner_layers": 1, "num_attention_heads": 4,
        "num_kv_heads": 2, "multiple_of": 256, "ffn_dim_multiplier": None, "norm_eps": 1e-05,
        "axes_dim_rope": [8, 8, 8], "text_feat_dim": 20, "timestep_scale": 1000.0,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    part: Any = parse_part("backbone", {"name": "omnigen2", "weights": str(tmp_path)})
    assert (part.layers, part.axes, part.mlp_dim) == (3, (8, 8, 8), 512)
    state = part.model_copy(update={"weights": None}).build().state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / FILE)
    found = part.build().state_dict()
    assert all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize("variant", ["0.9.0", "0.9.1", "0.9.5"])
def test_the_variant_of_a_vae_is_read_from_its_table_of_blocks(
    variant: str, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers", reason="the part needs it")
    ours: Any = parse_part("vae", {"name": "ltx", "variant": variant, "width": "tiny"})
    config = {"_class_name": "AutoencoderKLLTXVideo", **ours.blocks}
    (tmp_path / "config.json").write_text(json.dumps(config))
    part: Any = parse_part("vae", {"name": "ltx", "weights": str(tmp_path)})
    assert (part.variant, part.width) == (variant, "tiny")
    other = "0.9.5" if variant != "0.9.5" else "0.9.0"
    with pytest.raises(SpecError, match=f"the spec says variant = '{other}'"):
        parse_part("vae", {"name": "ltx", "weights": str(tmp_path), "variant": other})


def test_the_width_of_a_text_encoder_is_that_of_its_folder(tmp_path: Path) -> None:
    tables = {
        "umt5-xxl": {"model_type": "umt5", "d_model": 32},
        "t5-xxl": {"model_type": "t5", "d_model": 48},
        "qwen3": {"model_type": "qwen3", "hidden_size": 40, "num_hidden_layers": 30},
    }
    for name, table in tables.items():
        folder = tmp_path / name / "text_encoder"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(table))
        part: Any = parse_part("text_encoder", {"name": name, "weights": str(tmp_path / name)})
        assert part.embedding == table.get("d_model", table.get("hidden_size"))
    args = {"hidden_size": 24, "num_hidden_layers": 3}
    table = {"model_type": "qwen2_5_vl", "text_config": args}
    (tmp_path / "config.json").write_text(json.dumps(table))
    part = parse_part("text_encoder", {"name": "qwen2.5-vl", "weights": str(tmp_path)})
    assert (part.embedding, part.layers) == (24, 3)


def test_a_damaged_configuration_is_a_conflict_and_no_other_file_is_asked(tmp_path: Path) -> None:
    table = _wan(tmp_path)
    for text in ("{", "[]", "version https://git-lfs.github.com/spec/v1\nsize 5\n"):
        (tmp_path / "config.json").write_text(text)
        conflicts = check(read(TOY) | {"backbone": table})
        assert [c for c in conflicts if c.between == ("backbone.weights",)]
    (tmp_path / "config.json").write_text('{"_class_name": "Other"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    table["weights"] += "/model.safetensors"  # what lies next to a named file may be anything
    assert parse_part("backbone", table)


def test_reading_a_configuration_needs_no_torch(tmp_path: Path) -> None:
    import subprocess

    table = _wan(tmp_path)
    script = (
        "import sys\nfrom wamkit.config.spec import parse_part\n"
        f"assert parse_part('backbone', {table!r}).layers == 30\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_that_are_absent_leave_the_variant_in_charge(tmp_path: Path) -> None:
    part: Any = parse_part("backbone", {"name": "wan", "weights": str(tmp_path / "none")})
    assert part.variant == "2.2-ti2v-5b"
    with pytest.raises(WamkitError, match="no weights at"):
        load_part("backbone", part)


WRONG: dict[str, Any] = {
    "text": "3", "true": True, "a fraction": 1.5, "negative": -3, "0": 0, "endless": 10**9,
    "more digits": 10**300, "a list": [3], "a table": {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("layout", ["wan", "cosmos", "ltx", "flux2", "flux1", "qwen_image"])
def test_a_size_that_is_no_size_is_refused_before_anything_is_built(
    layout: str, wrong: str, tmp_path: Path
) -> None:
    name, cls, given, _ = BACKBONES[layout]
    unread = (*UNREAD, *(("pooled_projection_dim",) if wrong == "0" else ()))  # 0 is none
    sizes = [k for k, v in given.items() if type(v) is int and k not in unread]
    for key in sizes:
        config = {"_class_name": cls, **given, key: WRONG[wrong]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        raw = read(TOY) | {"backbone": {"name": name, "weights": str(tmp_path)}}
        found = [c for c in check(raw) if "backbone.weights" in c.between]
        assert found and any("config.json" in c.why for c in found), key
        assert all(len(str(c)) < 600 for c in found)


UNREAD = ("rope_max_seq_len", "added_kv_proj_dim", "text_embed_dim")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested deeper"),
        ('{"_class_name": "WanTransformer3DModel", "num_layers": NaN}', "it holds NaN"),
        ('{"num_layers": 2, "num_layers": 3}', "'num_layers' stands twice"),
        ('{"num_layers": 1e999}', "beyond the largest number"),
        ("[1]", "holds a list, expected a table"),
        ("{", "line 1, column 2"),
        (" " * 2**22 + "{}", "at most 4,194,304 are read"),
    ],
)
def test_a_config_that_is_no_plain_table_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(text)
    raw = read(TOY) | {"backbone": {"name": "wan", "weights": str(tmp_path)}}
    assert any(message in c.why for c in check(raw) if "backbone.weights" in c.between)


def test_layers_beyond_any_model_are_counted_while_it_is_built(tmp_path: Path) -> None:
    save_file({"blocks.0.x": torch.zeros(1)}, tmp_path / FILE)
    part = parse_part("backbone", "wan").tiny()
    assert not isinstance(part, dict)
    table = part.model_dump(mode="json") | {"layers": 4096, "weights": str(tmp_path)}
    with pytest.raises(WamkitError, match="more than 50,000 parameter tensors by its sizes"):
        load_part("backbone", table)

"""The open_clip text encoder equals open_clip's own tower, stays frozen, and needs no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from wamkit_open_clip import OpenCLIP, models, obstacle, published

from wamkit.checkpoints.safetensors import save
from wamkit.errors import WamkitError
from wamkit.interfaces import TextEncoder
from wamkit.testing.parity import float64, same_values, to_float64

SIZES: dict[str, Any] = {"layers": 3, "num_heads": 2, "embedding": 16}
TEXT = {**published(models()["ViT-B-32"])["text_cfg"], "layers": 3, "heads": 2, "width": 16}
VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
PROMPTS = ["pick up the red block", "open the drawer", ""]


def whole_model(layout: str, quick_gelu: bool = False) -> Any:
    """open_clip's model of both sides, tiny, its text weights under flat names or under `text.`"""
    from open_clip.model import CLIP, CustomTextCLIP

    torch.manual_seed(0)
    cls = CLIP if layout == "flat" else CustomTextCLIP
    return cls(12, VISION, TEXT, quick_gelu=quick_gelu).eval()


def saved(model: Any, folder: Path) -> str:
    file = folder / "open_clip_model.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    return str(file)


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.manual_seed(0)
    return OpenCLIP(**SIZES).build()


@pytest.mark.parametrize("layout", ["flat", "text"])
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
@float64()
def test_against_open_clip(layout: str, name: str, tmp_path: Path) -> None:
    reference = whole_model(layout, quick_gelu="quickgelu" in name)
    encoder = to_float64(OpenCLIP(model=name, weights=saved(reference, tmp_path), **SIZES).build())
    text = encoder.encode(PROMPTS)
    ends = text.valid.sum(1) - 1
    projection = reference.text_projection if layout == "flat" else reference.text.text_projection
    pooled = text.tokens[range(3), ends] @ projection
    with torch.no_grad():
        expected = reference.encode_text(encoder.tokenizer(PROMPTS))
    same_values(pooled, expected)


@float64()
def test_the_penultimate_layer_skips_the_last_block_and_keeps_the_norm(tmp_path: Path) -> None:
    reference = whole_model("flat")
    file = saved(reference, tmp_path)
    encoder = to_float64(OpenCLIP(weights=file, layer="penultimate", **SIZES).build())
    with torch.no_grad():
        ids = encoder.tokenizer(PROMPTS)
        x = reference.token_embedding(ids) + reference.positional_embedding
        for block in reference.transformer.resblocks[:-1]:
            x = block(x, attn_mask=reference.attn_mask)
        expected = reference.ln_final(x)
    found = encoder.encode(PROMPTS).tokens
    same_values(found, expected[:, : found.shape[1]])


def test_only_the_text_tower_is_built(encoder: Any) -> None:
    names = set(encoder.state_dict())
    assert isinstance(encoder, TextEncoder)
    assert "tower.token_embedding.weight" in names
    assert not [name for name in names if "visual" in name or "projection" in name]


def test_tokens_after_the_end_of_text_are_not_valid_or_left_out(encoder: Any) -> None:
    text = encoder.encode(PROMPTS)
    config = OpenCLIP(**SIZES)
    assert (config.max_tokens, config.width) == (77, 16)
    assert text.tokens.shape == (3, 7, 16)
    assert text.valid.sum(1).tolist() == [7, 5, 2]
    assert text.valid[:, 0].all()


def test_it_is_frozen_and_stays_in_evaluation_mode(encoder: Any) -> None:
    encoder.train()
    assert not encoder.trainable
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.encode(["lift"]).tokens.requires_grad


def test_it_can_be_built_on_the_meta_device_and_filled_later(encoder: Any) -> None:
    with torch.device("meta"):
        empty = OpenCLIP(**SIZES).build()
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(encoder.state_dict(), assign=True)
    assert torch.equal(empty.encode(PROMPTS).tokens, encoder.encode(PROMPTS).tokens)


def test_a_tower_saved_alone_comes_back(encoder: Any, tmp_path: Path) -> None:
    save(encoder.tower, tmp_path / "tower.safetensors")
    again = OpenCLIP(weights=str(tmp_path / "tower.safetensors"), **SIZES).build()
    assert again.fingerprint() == encoder.fingerprint()


def test_a_model_of_another_size_is_refused(tmp_path: Path) -> None:
    file = saved(whole_model("flat"), tmp_path)
    with pytest.raises(WamkitError, match=r"missing: .*resblocks\.3\."):
        OpenCLIP(weights=file, layers=4, num_heads=2, embedding=16).build()


def test_a_tensor_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    model = whole_model("flat")
    model.text_surprise = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(WamkitError, match="1 unexpected: text_surprise"):
        OpenCLIP(weights=saved(model, tmp_path), **SIZES).build()


def test_a_long_prompt_is_refused_with_its_length(encoder: Any) -> None:
    encoder.encode(["up " * 75])
    with pytest.raises(WamkitError) as caught:
        encoder.encode(["up " * 76])
    assert caught.value.what.endswith("has 78 tokens, this CLIP model takes at most 77")
    assert caught.value.hint == "shorten the prompt or text_encoder.prompt_template"


def test_the_fingerprint_follows_weights_layer_and_activation(encoder: Any) -> None:
    def print_of(**changes: Any) -> str:
        other = OpenCLIP(**{**SIZES, **changes}).build()
        other.load_state_dict(encoder.state_dict())
        found: str = other.fingerprint()
        return found

    assert print_of() == encoder.fingerprint()
    others = {
        print_of(layer="penultimate"),
        print_of(num_heads=4),
        print_of(model="ViT-B-32-quickgelu"),
        OpenCLIP(**SIZES).build().fingerprint(),
    }
    assert len(others) == 4 and encoder.fingerprint() not in others


def test_sizes_are_known_without_torch() -> None:
    code = (
        "import sys; from wamkit_open_clip import OpenCLIP; c = OpenCLIP(model='ViT-H-14'); "
        "print(c.width, c.max_tokens, 'torch' in sys.modules, 'open_clip' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1024", "77", "False", "False"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "ViT-B32"}, "open_clip has no such model (did you mean 'ViT-B-32'?)"),
        ({"model": "zzz"}, "open_clip has no such model"),
        (
            {"model": "ViT-B-16-SigLIP"},
            "its tokenizer would have to be downloaded (timm/ViT-B-16-SigLIP); "
            "ViT-B-16, ViT-B-16-quickgelu, ViT-B-16-plus, ViT-S-16 would work",
        ),
        ({"num_heads": 7}, "an embedding of 512 cannot be cut into 7 heads"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_can(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OpenCLIP(**change)
    assert caught.value.errors()[0]["msg"] == message


def test_every_model_is_either_described_or_refused() -> None:
    usable = [name for name, file in models().items() if not obstacle(file)]
    assert {"ViT-B-32", "ViT-bigG-14", "RN50", "EVA02-L-14", "PE-Core-B-16"} <= set(usable)
    for name in usable:
        config = OpenCLIP(model=name)
        assert config.sizes["vocab_size"] == 49408 and config.width and config.max_tokens
    refused = set(models()) - set(usable)
    assert {"ViT-B-16-SigLIP2", "coca_ViT-L-14", "roberta-ViT-B-32"} <= refused


def test_tiny_is_small_random_and_fits_any_backbone() -> None:
    tiny = OpenCLIP(model="ViT-bigG-14", weights="x", layer="penultimate").tiny()
    assert (tiny.width, tiny.weights, tiny.adapter) == (32, None, "linear")
    assert (tiny.name, tiny.layer) == ("open_clip", "penultimate")
    assert tiny.build().encode(["lift"]).tokens.shape == (1, 3, 32)


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float16, torch.float64])
def test_a_file_that_mixes_dtypes_is_read_in_the_widest(other: torch.dtype, tmp_path: Path) -> None:
    plain = OpenCLIP(**SIZES).build()
    state = {k: v.contiguous() for k, v in plain.tower.state_dict().items()}
    mixed = {k: v.to(other) if "in_proj" in k else v for k, v in state.items()}
    save_file(mixed, tmp_path / "mixed.safetensors")
    made = OpenCLIP(**SIZES, weights=str(tmp_path / "mixed.safetensors")).build()
    wide = torch.promote_types(other, torch.float32)
    assert {p.dtype for p in made.tower.parameters()} == {wide}
    found, expected = made.encode(PROMPTS).tokens, plain.encode(PROMPTS).tokens
    assert found.dtype == wide and (found - expected).norm() < 0.1 * expected.norm()

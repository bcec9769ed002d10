"""The UMT5 encoder equals transformers' own, pads as Wan does, and reads local files only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from wamkit_wan.text_encoder_config import UMT5

from wamkit.errors import WamkitError
from wamkit.interfaces import TextEncoder
from wamkit.parity import doubled, float64, same_values

transformers = pytest.importorskip("transformers")
PROMPTS = ["pick up the cup", "open it", ""]
LENGTH = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random UMT5 and a tokenizer of single letters, laid out as in a Wan checkpoint."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    root = tmp_path_factory.mktemp("wan")
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words += [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz&"]
    letters = Tokenizer(models.Unigram(words, unk_id=2))
    letters.pre_tokenizer = pre_tokenizers.Metaspace()
    letters.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(root / "tokenizer")
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(0)
    model = transformers.UMT5EncoderModel(transformers.UMT5Config(vocab_size=len(words), **sizes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(root / "text_encoder")
    return root


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same files, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def config(folder: Path, padding: Literal["zeros", "mask"] = "zeros", length: int = LENGTH) -> UMT5:
    return UMT5(weights=str(folder), embedding=32, length=length, padding=padding)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Any:
    return config(folder).build()


def reference(folder: Path, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers called directly: hidden states [B, L, width] and mask [B, L]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder / "tokenizer", trust_remote_code=False
    )
    model = doubled(
        transformers.UMT5EncoderModel.from_pretrained(
            folder / "text_encoder", trust_remote_code=False
        ).eval()
    )
    batch = tokenizer(prompts, padding="max_length", max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        found = model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return found, batch.attention_mask.bool()


@float64()
def test_against_transformers(folder: Path, encoder: Any) -> None:
    encoder = doubled(encoder)
    expected, mask = reference(folder, PROMPTS)
    found = encoder.encode(PROMPTS).tokens
    assert mask.sum(1).tolist() == [17, 9, 1]
    for row, real, whole in zip(found, mask, expected, strict=True):
        n = int(real.sum())
        same_values(row[:n], whole[:n])
        assert (row[n:] == 0).all()


def test_one_zero_token_stands_for_all_padding(encoder: Any) -> None:
    text = encoder.encode(PROMPTS)
    assert text.valid is None and text.tokens.shape == (3, 17 + 1, 32)
    assert text.copies is not None
    assert text.copies[:, -1].tolist() == [LENGTH - 17, LENGTH - 9, LENGTH - 1]
    assert text.copies[:, :-1].sum(1).tolist() == [17, 9, 1]


def test_masked_padding_is_hidden(folder: Path, encoder: Any) -> None:
    text = config(folder, "mask").build().encode(PROMPTS)
    assert text.valid is not None and text.valid.sum(1).tolist() == [17, 9, 1]
    assert torch.equal(text.tokens, encoder.encode(PROMPTS).tokens[:, :-1])


def test_it_is_frozen_and_stays_in_evaluation_mode(encoder: Any) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.encode(["up"]).tokens.requires_grad
    assert not encoder.trainable
    assert isinstance(encoder, TextEncoder)


def test_prompts_are_cleaned_as_wan_does(encoder: Any) -> None:
    a, b = (encoder.encode([p]).tokens for p in ("  cup\n &amp;amp;\tpan ", "cup & pan"))
    assert torch.equal(a, b)


def test_a_long_prompt_is_refused_with_its_length_and_the_key(encoder: Any) -> None:
    encoder.encode(["a" * (LENGTH - 2)])
    with pytest.raises(WamkitError) as caught:
        encoder.encode(["a" * (LENGTH - 1)])
    assert caught.value.what.endswith("has 25 tokens, expected at most 24")
    assert caught.value.hint == "set text_encoder.length = 25 or more, or shorten the prompt"


def test_files_may_lie_in_one_folder(folder: Path, tmp_path: Path, encoder: Any) -> None:
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / name, tmp_path / "flat", dirs_exist_ok=True)
    found = config(tmp_path / "flat").build().encode(PROMPTS).tokens
    assert torch.equal(found, encoder.encode(PROMPTS).tokens)


def test_it_is_loaded_in_the_dtype_it_was_saved_in(copy: Path) -> None:
    model = transformers.UMT5EncoderModel.from_pretrained(
        copy / "text_encoder", trust_remote_code=False
    )
    model.to(torch.bfloat16).save_pretrained(copy / "text_encoder")
    assert config(copy).build().encode(["up"]).tokens.dtype == torch.bfloat16


def test_the_real_weights_are_loaded_even_while_others_are_built_empty(folder: Path) -> None:
    with torch.device("meta"):
        built = config(folder).build()
    assert not any(parameter.is_meta for parameter in built.parameters())


def test_the_fingerprint_follows_the_files_and_not_their_place(
    folder: Path, copy: Path, encoder: Any
) -> None:
    assert config(copy).build().fingerprint() == encoder.fingerprint()
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["shared.weight"][0, 0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    others = {
        config(copy).build().fingerprint(),
        config(folder, "mask").build().fingerprint(),
        config(folder, length=LENGTH + 1).build().fingerprint(),
    }
    assert len(others) == 3 and encoder.fingerprint() not in others


def test_tensors_that_do_not_fit_are_named(copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["surprise"] = weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(WamkitError) as caught:
        config(copy).build()
    assert caught.value.what.endswith(
        "missing: encoder.final_layer_norm.weight; unexpected: surprise"
    )


def test_a_truncated_file_is_refused(copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WamkitError, match="is truncated"):
        config(copy).build()


# What the check says before anything is loaded ---------------------------------------------------


def complaints(part: UMT5) -> list[str]:
    return [conflict.why for conflict in part.conflicts(spec=None)]  # type: ignore[arg-type]


def test_complete_files_have_no_conflict(folder: Path) -> None:
    assert complaints(config(folder)) == []
    assert (config(folder).width, config(folder).max_tokens) == (32, LENGTH)


def test_it_cannot_exist_without_files() -> None:
    (conflict,) = UMT5().conflicts(spec=None)  # type: ignore[arg-type]
    assert conflict.between == ("text_encoder.weights",)
    assert conflict.why == "umt5-xxl cannot exist without its published files, and none are named"
    assert "set text_encoder.weights" in conflict.hint
    assert "or try the policy with --tiny" in conflict.hint
    with pytest.raises(WamkitError, match="none are named"):
        UMT5().build()


def test_a_width_that_is_not_the_files_is_named(folder: Path) -> None:
    assert UMT5(weights=str(folder)).embedding == 32  # read where it is left open
    (why,) = complaints(UMT5(weights=str(folder), embedding=4096))
    assert why.endswith("makes embeddings of width 32, expected 4096")


def test_missing_parts_of_the_folder_are_named(copy: Path) -> None:
    (copy / "tokenizer" / "tokenizer.json").unlink()
    tokenizer = copy / "tokenizer"
    assert complaints(config(copy)) == [
        f"there is no tokenizer in {tokenizer}: none of tokenizer.json, spiece.model, vocab.json"
    ]
    (copy / "text_encoder" / "config.json").unlink()
    encoder = copy / "text_encoder"
    assert complaints(config(copy)) == [f"there is no config.json of a text encoder in {encoder}"]


def test_another_model_is_named(copy: Path) -> None:
    file = copy / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "t5"}))
    (why,) = complaints(config(copy))
    assert why.endswith("holds a model of type 't5', expected 'umt5'")


def test_tiny_is_the_byte_encoder() -> None:
    assert UMT5(weights="somewhere").tiny() == {"name": "bytes", "length": 128}


def test_float8_is_widened_and_what_is_packed_is_refused(copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    state = load_file(file)
    matrices = [name for name, tensor in state.items() if tensor.ndim == 2]
    small = {k: v.to(torch.float8_e4m3fn) if k in matrices else v for k, v in state.items()}
    save_file(small, file, metadata={"format": "pt"})
    made = config(copy).build().model
    assert {p.dtype for p in made.parameters()} == {torch.float32}  # as the rest of the file
    assert torch.equal(made.shared.weight, small["shared.weight"].float())
    scale = {k.removesuffix("weight") + "scale_weight": torch.ones(()) for k in matrices}
    packed = {
        "is scaled float8": {**small, **scale},
        "integers where its model has floats": {
            k: (10 * v).to(torch.int8) if k in matrices else v for k, v in state.items()
        },
        r"is quantized \(bitsandbytes": {**state, "shared.weight.absmax": torch.ones(3)},
    }
    for words, tensors in packed.items():
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(WamkitError, match=words):
            config(copy).build()
    save_file(state, file, metadata={"format": "pt"})
    table = json.loads((copy / "text_encoder" / "config.json").read_text())
    table["quantization_config"] = {"quant_method": "fp8"}
    (copy / "text_encoder" / "config.json").write_text(json.dumps(table))
    with pytest.raises(WamkitError, match=r"is quantized \(fp8, its config\.json says\)"):
        config(copy).build()

"""T5 equals transformers' own, treats padding as it is told to, and reads local files only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from wamkit_t5 import T5XXL, T511B

from wamkit.attention import sdpa
from wamkit.errors import WamkitError
from wamkit.interfaces import TextEncoder
from wamkit.parity import doubled, float64, other_values, same_values
from wamkit.spec import parse_part

transformers = pytest.importorskip("transformers")
PROMPTS = ["pick up the cup", "open it", ""]
REAL = [17, 9, 1]  # tokens of each, </s> included
LENGTH = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random T5 and a tokenizer of single letters, laid out as in diffusers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    root = tmp_path_factory.mktemp("t5")
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
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    model = transformers.T5EncoderModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(root / "text_encoder")
    return root


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same files, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def config(folder: Path, padding: str = "mask", length: int = LENGTH, cls: Any = T5XXL) -> Any:
    return cls(weights=str(folder), embedding=32, length=length, padding=padding)


def reference(folder: Path, *, masked: bool) -> torch.Tensor:
    """transformers called directly, as the published pipelines do: [3, LENGTH, 32]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder / "tokenizer", trust_remote_code=False
    )
    model = doubled(
        transformers.T5EncoderModel.from_pretrained(
            folder / "text_encoder", trust_remote_code=False
        ).eval()
    )
    batch = tokenizer(PROMPTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    assert batch.attention_mask.sum(1).tolist() == REAL
    with torch.no_grad():
        mask = batch.attention_mask if masked else None
        return model(batch.input_ids, attention_mask=mask).last_hidden_state


@float64()
def test_padding_is_hidden_from_t5_and_from_the_backbone(folder: Path) -> None:
    text, expected = doubled(config(folder).build()).encode(PROMPTS), reference(folder, masked=True)
    assert text.copies is None and text.valid is not None
    assert text.valid.sum(1).tolist() == REAL and text.valid.shape == (3, 17)
    for i, n in enumerate(REAL):
        same_values(text.tokens[i, :n], expected[i, :n])
        assert not text.valid[i, n:].any()
    # The mask matters to T5 itself: without it, padding leaks into the words.
    leaked = reference(folder, masked=False)
    other_values(leaked[1, :9], expected[1, :9], 0.01)


@float64()
def test_zero_vectors_count_as_many_times_as_there_is_padding(folder: Path) -> None:
    text = doubled(config(folder, "zeros", cls=T511B).build()).encode(PROMPTS)
    whole = reference(folder, masked=True)
    for i, n in enumerate(REAL):
        whole[i, n:] = 0
    assert text.valid is None and text.copies is not None and text.tokens.shape == (3, 18, 32)
    assert text.copies.sum(1).tolist() == [LENGTH] * 3
    rng = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 5, 32, generator=rng), *torch.randn(2, 32, 32, generator=rng))
    q = q.expand(3, 1, 5, 32)

    def heard(words: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return sdpa(q, (words @ k)[:, None] + 1, (words @ v)[:, None] + 1, mask)

    same_values(heard(text.tokens, text.mask), heard(whole, None))


def test_a_batch_as_long_as_it_may_be_keeps_its_length(folder: Path) -> None:
    text = config(folder, "zeros", length=17).build().encode(PROMPTS)
    assert text.tokens.shape == (3, 17, 32) and text.copies.sum(1).tolist() == [17] * 3
    assert text.copies[:, -1].tolist() == [1, 8, 16]


@float64()
def test_padding_that_is_attended_to_is_seen_by_t5_too(folder: Path) -> None:
    text = doubled(config(folder, "attended").build()).encode(PROMPTS)
    assert text.valid is None and text.copies is None
    same_values(text.tokens, reference(folder, masked=False))


@pytest.mark.parametrize("padding", ["mask", "zeros", "attended"])
@float64()
def test_a_prompt_is_encoded_alike_alone_and_among_others(folder: Path, padding: str) -> None:
    encoder = doubled(config(folder, padding).build())
    both, alone = encoder.encode(PROMPTS), encoder.encode(PROMPTS[1:2])
    n = LENGTH if padding == "attended" else 9
    same_values(both.tokens[1, :n], alone.tokens[0, :n])


def test_the_published_models_are_the_defaults() -> None:
    xxl, eleven = parse_part("text_encoder", "t5-xxl"), parse_part("text_encoder", "t5-11b")
    assert (xxl.length, xxl.padding, xxl.width) == (128, "mask", 4096)  # type: ignore[attr-defined]
    assert (eleven.length, eleven.padding, eleven.width) == (512, "zeros", 1024)  # type: ignore[attr-defined]
    assert xxl.tiny() == eleven.tiny() == {"name": "bytes", "length": 128}


def test_it_is_frozen_and_stays_in_evaluation_mode(folder: Path) -> None:
    encoder = config(folder).build().train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.trainable and isinstance(encoder, TextEncoder)


def test_a_long_prompt_is_refused_with_its_length_and_the_key(folder: Path) -> None:
    encoder = config(folder).build()
    encoder.encode(["a" * (LENGTH - 2)])
    with pytest.raises(WamkitError) as caught:
        encoder.encode(["a" * (LENGTH - 1)])
    assert caught.value.what.endswith("has 25 tokens, expected at most 24")
    assert caught.value.hint == "set text_encoder.length = 25 or more, or shorten the prompt"


def test_files_of_the_whole_t5_may_be_named(folder: Path, copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    extra = {"decoder.final_layer_norm.weight": torch.ones(32), "lm_head.weight": torch.ones(1)}
    save_file({**weights, **extra}, file, metadata={"format": "pt"})
    found = config(copy).build().encode(PROMPTS).tokens
    assert torch.equal(found, config(folder).build().encode(PROMPTS).tokens)


def test_files_may_lie_in_one_folder(folder: Path, tmp_path: Path) -> None:
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / name, tmp_path / "flat", dirs_exist_ok=True)
    found = config(tmp_path / "flat").build().encode(PROMPTS).tokens
    assert torch.equal(found, config(folder).build().encode(PROMPTS).tokens)


def test_it_is_loaded_in_the_dtype_it_was_saved_in(copy: Path) -> None:
    model = transformers.T5EncoderModel.from_pretrained(
        copy / "text_encoder", trust_remote_code=False
    )
    model.to(torch.bfloat16).save_pretrained(copy / "text_encoder")
    assert config(copy).build().encode(["up"]).tokens.dtype == torch.bfloat16


def test_the_real_weights_are_loaded_even_while_others_are_built_empty(folder: Path) -> None:
    with torch.device("meta"):
        built = config(folder).build()
    assert not any(parameter.is_meta for parameter in built.parameters())


def test_the_fingerprint_follows_the_files_and_the_padding(folder: Path, copy: Path) -> None:
    first = config(folder).build().fingerprint()
    assert config(copy).build().fingerprint() == first
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["shared.weight"][0, 0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    parts = [config(copy), config(folder, "zeros"), config(folder, length=LENGTH + 1)]
    others = {part.build().fingerprint() for part in parts}
    assert len(others) == 3 and first not in others


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


def complaints(part: Any) -> list[str]:
    return [conflict.why for conflict in part.conflicts(spec=None)]


def test_complete_files_have_no_conflict(folder: Path) -> None:
    assert complaints(config(folder)) == []
    assert (config(folder).width, config(folder).max_tokens) == (32, LENGTH)


def test_it_cannot_exist_without_files() -> None:
    (conflict,) = T5XXL().conflicts(spec=None)  # type: ignore[arg-type]
    assert conflict.between == ("text_encoder.weights",) and conflict.missing
    assert conflict.why == "t5-xxl cannot exist without its published files, and none are named"
    assert "set text_encoder.weights" in conflict.hint and "--tiny" in conflict.hint
    with pytest.raises(WamkitError, match="none are named"):
        T511B().build()


def test_what_is_wrong_with_a_folder_is_named(folder: Path, copy: Path) -> None:
    assert T5XXL(weights=str(folder)).embedding == 32  # read where it is left open
    (why,) = complaints(T5XXL(weights=str(folder), embedding=4096))
    assert why.endswith("makes embeddings of width 32, expected 4096")
    file = copy / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "umt5"}))
    (why,) = complaints(config(copy))
    assert why.endswith("holds a model of type 'umt5', expected 't5'")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    (why,) = complaints(config(copy))
    assert why == (
        f"there is no tokenizer in {copy / 'tokenizer'}: none of tokenizer.json, spiece.model, "
        "vocab.json"
    )
    file.unlink()
    (why,) = complaints(config(copy))
    assert why == f"there is no config.json of a text encoder in {copy / 'text_encoder'}"


# Files of a stranger ----------------------------------------------------------------------------


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("wrong", ["2", True, -2, 0, 1.5, 10**9, [2], {"a": 2}])
@pytest.mark.parametrize("key", ["num_layers", "d_model", "d_ff", "num_heads", "vocab_size"])
def test_a_size_that_is_no_size_is_refused(key: str, wrong: Any, copy: Path) -> None:
    changed(copy / "text_encoder" / "config.json", **{key: wrong})
    with pytest.raises(WamkitError, match=f"{key} is .*, expected a whole number"):
        config(copy).build()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_layers": 20_000}, "more than 50,000 parameter tensors"),
        ({"d_ff": 2**20}, "describes a model of .* values, and the files beside it hold"),
        ({"num_layers": 3}, "missing: .*block.2"),
        ({"d_ff": 50}, "transformers can make no T5EncoderModel"),
        ({"dense_act_fn": "x" * 1000}, "describes no T5EncoderModel"),
    ],
)
def test_a_model_that_its_files_do_not_hold_is_not_made(
    values: Any, words: str, copy: Path
) -> None:
    changed(copy / "text_encoder" / "config.json", **values)
    with pytest.raises(WamkitError, match=words) as caught:
        config(copy).build()
    assert caught.value.hint and len(str(caught.value)) < 800


FAST = '"tokenizer_class": "PreTrainedTokenizerFast"'
BROKEN = {
    "nested": ("tokenizer.json", "[" * 100_000 + "]" * 100_000, "nested deeper"),
    "no tokenizer": ("tokenizer.json", "{}", "no tokenizer can be made"),
    "another version": ("tokenizer.json", '{"version": 7, "model": {"type": "?"}}', "no tokenizer"),
    "a list": ("tokenizer_config.json", "[]", "expected a table"),
    "code": (
        "tokenizer_config.json",
        '{"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["code.Mine", null]}}',
        "no tokenizer can be made",
    ),
    "a key twice": ("tokenizer_config.json", '{"a": 1, "a": 2}', "stands twice"),
    "no padding": ("tokenizer_config.json", f"{{{FAST}}}", "has no token for padding"),
    "tokens beyond": (
        "tokenizer_config.json",
        f'{{{FAST}, "pad_token": "<more>"}}',
        "has tokens up to 31, and the model embeds 0 to 30",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_of_a_stranger_is_refused_in_words(
    name: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    file, text, words = BROKEN[name]
    (copy / "tokenizer" / file).write_text(text)
    (copy / "tokenizer" / "code.py").write_text("open('ran', 'w')\n")
    with pytest.raises(WamkitError, match=words) as caught:
        config(copy).build()
    assert caught.value.hint and not (copy / "ran").exists()

"""T5 and UMT5 equal transformers' own, pad as configured, and read local files only."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from wamkit_t5 import T5XXL, T511B, UMT5XXL
from wamkit_t5.encoder import clean

from wamkit.config.spec import parse_part
from wamkit.engine.layers import attention
from wamkit.errors import WamkitError
from wamkit.interfaces import TextEncoder
from wamkit.testing.parity import float64, other_values, same_values, to_float64

transformers = pytest.importorskip("transformers")
Config = Callable[..., Any]
PROMPTS = ["pick up the cup", "open it", ""]
REAL = [17, 9, 1]  # tokens of each, </s> included
LENGTH = 24


@pytest.fixture(scope="module", params=["t5", "umt5"])
def family(request: pytest.FixtureRequest) -> str:
    """Every test below holds for both."""
    return str(request.param)


@pytest.fixture
def cls(family: str) -> Any:
    return {"t5": T5XXL, "umt5": UMT5XXL}[family]


@pytest.fixture
def config(cls: Any) -> Config:
    """The part for some files, with padding masked and prompts of 24 tokens unless said."""

    def made(folder: Path, padding: str = "mask", length: int = LENGTH) -> Any:
        return cls(weights=str(folder), embedding=32, max_length=length, padding=padding)

    return made


def classes(family: str) -> tuple[Any, Any]:
    """transformers' own: the configuration and the encoder."""
    return (
        (transformers.UMT5Config, transformers.UMT5EncoderModel)
        if family == "umt5"
        else (transformers.T5Config, transformers.T5EncoderModel)
    )


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model and a tokenizer of single letters, laid out as in diffusers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    root = tmp_path_factory.mktemp(family)
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz&"]
    letters = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    letters.pre_tokenizer = pre_tokenizers.Metaspace()
    letters.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(root / "tokenizer")
    torch.manual_seed(0)
    sizes, encoder = classes(family)
    config = sizes(
        vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    model = encoder(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(root / "text_encoder")
    return root


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same files, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def reference(family: str, folder: Path, *, masked: bool) -> torch.Tensor:
    """transformers called directly, as the published pipelines do: [3, LENGTH, 32]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder / "tokenizer", trust_remote_code=False
    )
    encoder = classes(family)[1]
    model = to_float64(
        encoder.from_pretrained(folder / "text_encoder", trust_remote_code=False).eval()
    )
    batch = tokenizer(PROMPTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    assert batch.attention_mask.sum(1).tolist() == REAL
    with torch.no_grad():
        mask = batch.attention_mask if masked else None
        return model(batch.input_ids, attention_mask=mask).last_hidden_state


@float64()
def test_padding_is_hidden_from_t5_and_from_the_backbone(
    folder: Path, config: Config, family: str
) -> None:
    text = to_float64(config(folder).build()).encode(PROMPTS)
    expected = reference(family, folder, masked=True)
    assert text.repeats is None and text.valid is not None
    assert text.valid.sum(1).tolist() == REAL and text.valid.shape == (3, 17)
    for i, n in enumerate(REAL):
        same_values(text.tokens[i, :n], expected[i, :n])
        assert not text.valid[i, n:].any()
    # The mask matters to T5 itself: without it, padding leaks into the words.
    leaked = reference(family, folder, masked=False)
    other_values(leaked[1, :9], expected[1, :9], 0.01)


@float64()
def test_zero_vectors_count_as_many_times_as_there_is_padding(
    folder: Path, config: Config, family: str
) -> None:
    text = to_float64(config(folder, "zeros").build()).encode(PROMPTS)
    whole = reference(family, folder, masked=True)
    for i, n in enumerate(REAL):
        whole[i, n:] = 0
    assert text.valid is None and text.repeats is not None and text.tokens.shape == (3, 18, 32)
    assert text.repeats.sum(1).tolist() == [LENGTH] * 3
    rng = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 5, 32, generator=rng), *torch.randn(2, 32, 32, generator=rng))
    q = q.expand(3, 1, 5, 32)

    def attend(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return attention(q, (tokens @ k)[:, None] + 1, (tokens @ v)[:, None] + 1, mask)

    same_values(attend(text.tokens, text.mask), attend(whole, None))


def test_a_batch_as_long_as_it_may_be_keeps_its_length(folder: Path, config: Config) -> None:
    text = config(folder, "zeros", length=17).build().encode(PROMPTS)
    assert text.tokens.shape == (3, 17, 32) and text.repeats.sum(1).tolist() == [17] * 3
    assert text.repeats[:, -1].tolist() == [1, 8, 16]


@float64()
def test_padding_that_is_attended_to_is_seen_by_t5_too(
    folder: Path, config: Config, family: str
) -> None:
    text = to_float64(config(folder, "attended").build()).encode(PROMPTS)
    assert text.valid is None and text.repeats is None
    same_values(text.tokens, reference(family, folder, masked=False))


@float64()
def test_encoded_padding_is_seen_by_t5_and_hidden_from_the_backbone(
    folder: Path, config: Config, family: str
) -> None:
    text = to_float64(config(folder, "encoded").build()).encode(PROMPTS)
    whole = reference(family, folder, masked=False)
    assert text.valid is not None and text.valid.sum(1).tolist() == list(REAL)
    for i, n in enumerate(REAL):
        same_values(text.tokens[i, :n], whole[i, :n])


@pytest.mark.parametrize("padding", ["mask", "zeros", "attended", "encoded"])
@float64()
def test_a_prompt_is_encoded_alike_alone_and_among_others(
    folder: Path, padding: str, config: Config
) -> None:
    encoder = to_float64(config(folder, padding).build())
    both, alone = encoder.encode(PROMPTS), encoder.encode(PROMPTS[1:2])
    n = LENGTH if padding == "attended" else 9
    same_values(both.tokens[1, :n], alone.tokens[0, :n])


def test_the_published_models_are_the_defaults() -> None:
    names = ("t5-xxl", "t5-11b", "umt5-xxl")
    xxl, eleven, umt5 = (parse_part("text_encoder", name) for name in names)
    assert (xxl.max_length, xxl.padding, xxl.width) == (128, "mask", 4096)  # type: ignore[attr-defined]
    assert (eleven.max_length, eleven.padding, eleven.width) == (512, "zeros", 1024)  # type: ignore[attr-defined]
    assert (umt5.max_length, umt5.padding, umt5.width) == (512, "zeros", 4096)  # type: ignore[attr-defined]
    assert umt5.tiny() == xxl.tiny() == eleven.tiny() == {"name": "bytes", "max_length": 128}


def test_prompts_for_umt5_are_cleaned_as_wan_does() -> None:
    assert clean("  cup\n &amp;amp;\tpan ", "umt5") == "cup & pan"
    assert clean("  cup\n &amp;\tpan ", "t5") == "cup\n &amp;\tpan"


def test_the_fingerprint_of_stored_embeddings_names_the_model(
    folder: Path, family: str, config: Config
) -> None:
    encoder = config(folder).build()
    facts = f"{family} {encoder.files} {LENGTH} mask"
    assert encoder.fingerprint() == hashlib.sha256(facts.encode()).hexdigest()


def test_it_is_frozen_and_stays_in_evaluation_mode(folder: Path, config: Config) -> None:
    encoder = config(folder).build().train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.trainable and isinstance(encoder, TextEncoder)


def test_a_long_prompt_is_refused_with_its_length_and_the_key(folder: Path, config: Config) -> None:
    encoder = config(folder).build()
    encoder.encode(["a" * (LENGTH - 2)])
    with pytest.raises(WamkitError) as caught:
        encoder.encode(["a" * (LENGTH - 1)])
    assert caught.value.what.endswith("has 25 tokens, expected at most 24")
    assert caught.value.hint == "set text_encoder.max_length = 25 or more, or shorten the prompt"


def test_files_of_the_whole_t5_may_be_named(folder: Path, copy: Path, config: Config) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    extra = {"decoder.final_layer_norm.weight": torch.ones(32), "lm_head.weight": torch.ones(1)}
    save_file({**weights, **extra}, file, metadata={"format": "pt"})
    found = config(copy).build().encode(PROMPTS).tokens
    assert torch.equal(found, config(folder).build().encode(PROMPTS).tokens)


def test_files_may_lie_in_one_folder(folder: Path, tmp_path: Path, config: Config) -> None:
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / name, tmp_path / "flat", dirs_exist_ok=True)
    found = config(tmp_path / "flat").build().encode(PROMPTS).tokens
    assert torch.equal(found, config(folder).build().encode(PROMPTS).tokens)


def test_it_is_loaded_in_the_dtype_it_was_saved_in(copy: Path, config: Config, family: str) -> None:
    encoder = classes(family)[1]
    model = encoder.from_pretrained(copy / "text_encoder", trust_remote_code=False)
    model.to(torch.bfloat16).save_pretrained(copy / "text_encoder")
    assert config(copy).build().encode(["up"]).tokens.dtype == torch.bfloat16


def test_the_real_weights_are_loaded_even_while_others_are_built_empty(
    folder: Path, config: Config
) -> None:
    with torch.device("meta"):
        built = config(folder).build()
    assert not any(parameter.is_meta for parameter in built.parameters())


def test_the_fingerprint_follows_the_files_and_the_padding(
    folder: Path, copy: Path, config: Config
) -> None:
    first = config(folder).build().fingerprint()
    assert config(copy).build().fingerprint() == first
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["shared.weight"][0, 0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    parts = [config(copy), config(folder, "zeros"), config(folder, length=LENGTH + 1)]
    others = {part.build().fingerprint() for part in parts}
    assert len(others) == 3 and first not in others


def test_tensors_that_do_not_fit_are_named(copy: Path, config: Config) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["surprise"] = weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(WamkitError) as caught:
        config(copy).build()
    assert caught.value.what.endswith(
        "missing: encoder.final_layer_norm.weight; unexpected: surprise"
    )


def test_a_truncated_file_is_refused(copy: Path, config: Config) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WamkitError, match="is truncated"):
        config(copy).build()


# What the check says before anything is loaded ---------------------------------------------------


def complaints(part: Any) -> list[str]:
    return [conflict.why for conflict in part.conflicts(spec=None)]


def test_complete_files_have_no_conflict(folder: Path, config: Config) -> None:
    assert complaints(config(folder)) == []
    assert (config(folder).width, config(folder).max_tokens) == (32, LENGTH)


def test_it_cannot_exist_without_files(cls: Any) -> None:
    (conflict,) = cls().conflicts(spec=None)
    assert conflict.between == ("text_encoder.weights",) and conflict.missing
    assert (
        conflict.why == f"{cls().name} cannot exist without its published files, and none are named"
    )
    assert "set text_encoder.weights" in conflict.hint and "--tiny" in conflict.hint
    with pytest.raises(WamkitError, match="none are named"):
        cls().build()


def test_what_is_wrong_with_a_folder_is_named(
    cls: Any, family: str, folder: Path, copy: Path, config: Config
) -> None:
    assert cls(weights=str(folder)).embedding == 32  # read where it is left open
    (why,) = complaints(cls(weights=str(folder), embedding=4096))
    assert why.endswith("makes embeddings of width 32, expected 4096")
    file = copy / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "bert"}))
    (why,) = complaints(config(copy))
    assert why.endswith(f"holds a model of type 'bert', expected '{family}'")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    (why,) = complaints(config(copy))
    assert why == (
        f"there is no tokenizer in {copy / 'tokenizer'}: none of tokenizer.json, spiece.model, "
        "vocab.json"
    )
    file.unlink()
    (why,) = complaints(config(copy))
    assert why == f"there is no config.json of a text encoder in {copy / 'text_encoder'}"


def test_float8_is_widened_and_what_is_packed_is_refused(copy: Path, config: Config) -> None:
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
    for message, tensors in packed.items():
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(WamkitError, match=message):
            config(copy).build()
    save_file(state, file, metadata={"format": "pt"})
    table = json.loads((copy / "text_encoder" / "config.json").read_text())
    table["quantization_config"] = {"quant_method": "fp8"}
    (copy / "text_encoder" / "config.json").write_text(json.dumps(table))
    with pytest.raises(WamkitError, match=r"is quantized \(fp8, its config\.json says\)"):
        config(copy).build()


# Untrusted files ----------------------------------------------------------------------------


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("wrong", ["2", True, -2, 0, 1.5, 10**9, [2], {"a": 2}])
@pytest.mark.parametrize("key", ["num_layers", "d_model", "d_ff", "num_heads", "vocab_size"])
def test_a_size_that_is_no_size_is_refused(
    key: str, wrong: Any, copy: Path, config: Config
) -> None:
    changed(copy / "text_encoder" / "config.json", **{key: wrong})
    with pytest.raises(WamkitError, match=f"{key} is .*, expected a whole number"):
        config(copy).build()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": 20_000}, "more than 50,000 parameter tensors"),
        ({"d_ff": 2**20}, "describes a model of .* values, and the files next to it hold"),
        ({"num_layers": 3}, "missing: .*block.2"),
        ({"d_ff": 50}, "transformers can make no (UM)?T5EncoderModel"),
        ({"dense_act_fn": "x" * 1000}, "describes no (UM)?T5EncoderModel"),
    ],
)
def test_a_model_that_its_files_do_not_hold_is_not_made(
    values: Any, message: str, copy: Path, config: Config
) -> None:
    changed(copy / "text_encoder" / "config.json", **values)
    with pytest.raises(WamkitError, match=message) as caught:
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
def test_a_tokenizer_of_another_model_is_refused_with_a_message(
    name: str, copy: Path, monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    monkeypatch.chdir(copy)
    file, text, message = BROKEN[name]
    (copy / "tokenizer" / file).write_text(text)
    (copy / "tokenizer" / "code.py").write_text("open('ran', 'w')\n")
    with pytest.raises(WamkitError, match=message) as caught:
        config(copy).build()
    assert caught.value.hint and not (copy / "ran").exists()


def test_the_size_of_the_published_encoder_needs_no_files() -> None:
    counts = {T5XXL: 4_762_310_656, T511B: 4_864_791_552, UMT5XXL: 5_680_910_336}
    for cls, count in counts.items():
        with torch.device("meta"):
            found = list(cls().skeleton().parameters())
        assert sum(p.numel() for p in found) == count and found[0].dtype == torch.bfloat16
        with pytest.raises(WamkitError, match=r"no published .* of width 32"):
            cls(embedding=32).skeleton()


def test_with_files_size_and_dtype_are_theirs(copy: Path, config: Config) -> None:
    model, part = copy / "text_encoder", config(copy)
    tensors, about = model / "model.safetensors", model / "config.json"
    values, keys = load_file(tensors), json.loads(about.read_text())
    for dtype in ("float32", "bfloat16"):
        save_file({k: v.to(getattr(torch, dtype)) for k, v in values.items()}, tensors)
        about.write_text(json.dumps({**keys, "dtype": dtype}))
        with torch.device("meta"):
            found = part.skeleton()
        wanted = {k: (v.shape, v.dtype) for k, v in part.build().model.named_parameters()}
        assert {k: (v.shape, v.dtype) for k, v in found.named_parameters()} == wanted

"""Qwen encoders equal the published pipelines, run no layer too many, and read local files only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wamkit_qwen import Qwen3, Qwen25VL

from wamkit.config.spec import parse_part
from wamkit.errors import WamkitError
from wamkit.interfaces import TextEncoder
from wamkit.testing.parity import float64, same_values, to_float64

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own pipelines")

PROMPTS = ["pick up the cup", "open {it}"]
LENGTH = 80
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
# What matters here of Qwen's chat templates: a system that is not named speaks in 2.5 alone.
CHAT = (
    "{%- for message in messages %}"
    "{%- if loop.first and message.role != 'system' and DEFAULT %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}{{- part.text }}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false and not DEFAULT %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 110, "max_position_embeddings": 512,
    "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip


def write_tokenizer(folder: Path, chat: str) -> None:
    """A tokenizer of single characters with Qwen's special tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *letters])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[1:],
        chat_template=chat,
    )
    made.save_pretrained(folder)


def random(model: Any) -> Any:
    """The model with every parameter drawn at random."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.3 + (p.ndim == 1))
    return model.eval()


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3, laid out as in FLUX.2 klein."""
    root = tmp_path_factory.mktemp("qwen3")
    write_tokenizer(root / "tokenizer", CHAT.replace("DEFAULT", "false"))
    config = transformers.Qwen3Config(**SIZES, head_dim=8)
    random(transformers.Qwen3ForCausalLM(config)).save_pretrained(root / "text_encoder")
    return root


@pytest.fixture(scope="module")
def qwen25vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2.5-VL, images included, laid out as in OmniGen2."""
    root = tmp_path_factory.mktemp("qwen25vl")
    write_tokenizer(root / "processor", CHAT.replace("DEFAULT", "true"))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
        "out_hidden_size": 32, "patch_size": 14, "window_size": 28, "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config={**SIZES, "rope_parameters": rope}, vision_config=vision
    )
    model = random(transformers.Qwen2_5_VLForConditionalGeneration(config))
    model.save_pretrained(root / "mllm")
    return root


def klein(folder: Path, **changes: Any) -> Qwen3:
    table = {"layers": (1, 2, 4), "embedding": 32, "max_length": LENGTH, **changes}
    return Qwen3(weights=str(folder), **table)


def vl(folder: Path, recipe: str, **changes: Any) -> Qwen25VL:
    table = {"recipe": recipe, "layers": 5, "embedding": 32, "max_length": 400, **changes}
    return Qwen25VL.model_validate({"weights": str(folder), **table})


def tokenizer_of(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def close(found: Tensor, expected: Tensor) -> None:
    same_values(found, expected)


# Equal to the published pipelines ----------------------------------------------------------------


def klein_embeddings(folder: Path, layers: tuple[int, ...]) -> Tensor:
    """diffusers' own function of FLUX.2 klein."""
    return diffusers.Flux2KleinPipeline._get_qwen3_prompt_embeds(
        to_float64(
            transformers.Qwen3ForCausalLM.from_pretrained(
                folder / "text_encoder", trust_remote_code=False
            ).eval()
        ),
        tokenizer_of(folder / "tokenizer"),
        PROMPTS,
        max_sequence_length=LENGTH,
        hidden_states_layers=list(layers),
    )


@pytest.mark.parametrize("layers", [(1, 2, 4), (2, 5), (1,)])
@float64()
def test_qwen3_equals_the_pipeline_of_flux2_klein(qwen3: Path, layers: tuple[int, ...]) -> None:
    with torch.no_grad():
        expected = klein_embeddings(qwen3, layers)
    part = klein(qwen3, layers=layers)
    text = to_float64(part.build()).encode(PROMPTS)
    assert text.valid is None and text.tokens.shape == (2, LENGTH, part.width)
    close(text.tokens, expected)


def test_no_layer_is_loaded_that_is_not_read(qwen3: Path) -> None:
    model = klein(qwen3).build().model
    assert len(model.layers) == 4 and isinstance(model.norm, torch.nn.Identity)
    whole = klein(qwen3, layers=(5,)).build().model
    assert len(whole.layers) == 5 and not isinstance(whole.norm, torch.nn.Identity)


@float64()
def test_masked_padding_of_qwen3_keeps_the_same_text_tokens(qwen3: Path) -> None:
    whole = to_float64(klein(qwen3).build()).encode(PROMPTS).tokens
    text = to_float64(klein(qwen3, padding="mask").build()).encode(PROMPTS)
    assert text.valid is not None and text.valid.shape[1] < LENGTH
    for row, real, expected in zip(text.tokens, text.valid, whole, strict=True):
        n = int(real.sum())
        close(row[:n], expected[:n])
        assert (row[n:] == 0).all() and not real[n:].any()


def vision_language(folder: Path) -> Any:
    """transformers' own model, in float64."""
    cls = transformers.Qwen2_5_VLForConditionalGeneration
    return to_float64(cls.from_pretrained(folder / "mllm", trust_remote_code=False).eval())


def qwen_image(folder: Path, template: str, drop: int) -> tuple[Tensor, Tensor]:
    """The function of diffusers' own Qwen-Image pipeline."""
    pipeline = diffusers.QwenImagePipeline(
        scheduler=None,
        vae=None,
        text_encoder=vision_language(folder),
        tokenizer=tokenizer_of(folder / "processor"),
        transformer=None,
    )
    pipeline.prompt_template_encode = template
    pipeline.prompt_template_encode_start_idx = drop
    with torch.no_grad():
        return pipeline._get_qwen_prompt_embeds(PROMPTS, device=torch.device("cpu"))


PIPELINES = {"qwen-image": "QwenImagePipeline", "qwen-image-edit": "QwenImageEditPipeline"}


@pytest.mark.parametrize("recipe", PIPELINES)
@float64()
def test_templates_are_those_of_qwen_image_without_the_image(qwen25vl: Path, recipe: str) -> None:
    cls = getattr(diffusers, PIPELINES[recipe])
    names = ("scheduler", "vae", "text_encoder", "tokenizer", "transformer", "processor")
    known = cls.__init__.__code__.co_varnames
    pipeline = cls(**{name: None for name in names if name in known})
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    template = pipeline.prompt_template_encode.replace(image, "")
    drop = pipeline.prompt_template_encode_start_idx
    expected, mask = qwen_image(qwen25vl, template, drop)
    text = to_float64(vl(qwen25vl, recipe).build()).encode(PROMPTS)
    assert text.valid is not None and torch.equal(text.valid, mask.bool())
    close(text.tokens, expected)


def states(folder: Path, ids: list[list[int]], pad_to: int, *, masked: bool) -> Any:
    """transformers' whole Qwen2.5-VL on tokens padded on the right."""
    model = vision_language(folder)
    mask = torch.tensor([[1] * len(row) + [0] * (pad_to - len(row)) for row in ids])
    padded = torch.tensor([row + [0] * (pad_to - len(row)) for row in ids])
    with torch.no_grad():
        found = model(padded, attention_mask=mask if masked else None, output_hidden_states=True)
    return found.hidden_states, mask


@float64()
def test_omnigen2_takes_the_last_states_and_a_mask(qwen25vl: Path) -> None:
    tokenizer = tokenizer_of(qwen25vl / "processor")
    system = (
        "You are a helpful assistant that generates high-quality images based on user instructions."
    )
    chats = [
        [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        for prompt in PROMPTS
    ]
    ids = [
        tokenizer(tokenizer.apply_chat_template(chat, tokenize=False)).input_ids for chat in chats
    ]
    found, mask = states(qwen25vl, ids, max(map(len, ids)), masked=True)
    text = to_float64(vl(qwen25vl, "omnigen2").build()).encode(PROMPTS)
    assert text.valid is not None and torch.equal(text.valid, mask.bool())
    close(text.tokens[mask.bool()], found[-1][mask.bool()])


@float64()
def test_cosmos_standardizes_every_layer_and_attends_to_padding(qwen25vl: Path) -> None:
    tokenizer, length = tokenizer_of(qwen25vl / "processor"), 200
    system = "You are a helpful assistant who will provide prompts to an image generator."
    ids = []
    for prompt in PROMPTS:
        pieces = [("system", system), ("user", prompt)]
        chat = [
            {"role": role, "content": [{"type": "text", "text": text}]} for role, text in pieces
        ]
        ids.append(tokenizer(tokenizer.apply_chat_template(chat, tokenize=False)).input_ids)
    found, _ = states(qwen25vl, ids, length, masked=False)
    expected = [(x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-8) for x in found]
    part = vl(qwen25vl, "cosmos2.5", max_length=length)
    text = to_float64(part.build()).encode(PROMPTS)
    assert text.valid is None and text.tokens.shape == (2, length, 5 * 32) and part.width == 160
    close(text.tokens, torch.cat(expected[1:], -1))


@pytest.mark.parametrize("recipe", ["qwen-image-edit", "omnigen2", "cosmos2.5"])
@float64()
def test_a_prompt_is_encoded_alike_alone_and_among_others(qwen25vl: Path, recipe: str) -> None:
    encoder = to_float64(vl(qwen25vl, recipe).build())
    both, alone = encoder.encode(PROMPTS), encoder.encode(PROMPTS[1:])
    close(both.tokens[1, : alone.tokens.shape[1]], alone.tokens[0])


def test_images_are_not_part_of_the_encoder(qwen25vl: Path) -> None:
    encoder = vl(qwen25vl, "omnigen2").build()
    assert not any("visual" in name or "lm_head" in name for name in encoder.state_dict())


# As any text encoder -----------------------------------------------------------------------------


def test_the_published_models_are_the_defaults() -> None:
    small, edit = parse_part("text_encoder", "qwen3"), parse_part("text_encoder", "qwen2.5-vl")
    assert (small.width, small.max_tokens) == (7680, 512)  # type: ignore[attr-defined]
    assert (edit.width, edit.recipe) == (3584, "qwen-image-edit")  # type: ignore[attr-defined]
    assert Qwen25VL(recipe="cosmos2.5").width == 100_352
    omni = Qwen25VL(recipe="omnigen2")
    assert (omni.width, omni.layers, omni.max_tokens) == (2048, 36, 256)
    assert small.tiny() == edit.tiny() == {"name": "bytes", "max_length": 128}


def test_it_is_frozen_and_stays_in_evaluation_mode(qwen3: Path) -> None:
    encoder = klein(qwen3).build().train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.trainable and isinstance(encoder, TextEncoder)


def test_a_long_prompt_is_refused_with_its_length_and_the_key(qwen3: Path, qwen25vl: Path) -> None:
    for encoder in (
        klein(qwen3).build(),
        vl(qwen25vl, "qwen-image-edit", max_length=LENGTH).build(),
    ):
        with pytest.raises(WamkitError, match="expected at most 80") as caught:
            encoder.encode(["a" * 1000])
        assert caught.value.hint.startswith("set text_encoder.max_length = ")


def test_the_fingerprint_follows_the_recipe(qwen3: Path, qwen25vl: Path) -> None:
    parts = [
        klein(qwen3), klein(qwen3, padding="mask"), klein(qwen3, layers=(1, 2)),
        klein(qwen3, max_length=LENGTH + 1), vl(qwen25vl, "omnigen2"), vl(qwen25vl, "qwen-image"),
    ]  # fmt: skip
    marks = {part.build().fingerprint() for part in parts}
    assert len(marks) == len(parts)
    assert klein(qwen3).build().fingerprint() in marks


def test_a_folder_without_chat_template_is_refused(qwen3: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(qwen3, tmp_path / "copy")
    (copy / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(WamkitError, match="has no chat template"):
        klein(copy).build()


def test_tensors_that_do_not_fit_are_named(qwen3: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(qwen3, tmp_path / "copy")
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["surprise"] = weights.pop("model.layers.3.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(WamkitError, match=r"layers\.3\.mlp\.up_proj\.weight; unexpected: surprise"):
        klein(copy).build()


def complaints(part: Any) -> list[str]:
    return [conflict.why for conflict in part.conflicts(spec=None)]


def test_what_is_wrong_with_a_folder_is_named(qwen3: Path, qwen25vl: Path, tmp_path: Path) -> None:
    assert complaints(klein(qwen3)) == complaints(vl(qwen25vl, "omnigen2")) == []
    (why,) = complaints(klein(qwen3, embedding=64))
    assert why.endswith("has a hidden size of 32, expected 64")
    (why,) = complaints(klein(qwen3, layers=(1, 9)))
    assert why.endswith("has 5 layers, and text_encoder.layers reads behind number 9")
    (why,) = complaints(vl(qwen25vl, "omnigen2", layers=6))
    assert why.endswith("has a number of layers of 5, expected 6")
    copy = shutil.copytree(qwen3, tmp_path / "copy")
    file = copy / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "qwen2"}))
    (why,) = complaints(klein(copy))
    assert why.endswith("holds a model of type 'qwen2', expected 'qwen3'")
    assert complaints(Qwen3()) == [
        "qwen3 cannot exist without its published files, and none are named"
    ]


@pytest.mark.parametrize(
    ("part", "count"),
    [  # of the whole models 4,022,468,096 and 8,190,735,360 (with a head of words) are published
        (Qwen3(layers=(36,)), 4_022_468_096),
        (Qwen3(layers=(36,), embedding=4096), 8_190_735_360 - 151_936 * 4096),
        (Qwen25VL(), 7_615_616_512 - 152_064 * 3584),
        (Qwen25VL(recipe="omnigen2"), 3_085_938_688),
    ],
)
def test_the_size_of_the_published_model_needs_no_files(part: Any, count: int) -> None:
    with torch.device("meta"):
        found = part.skeleton()
    assert sum(p.numel() for p in found.parameters()) == count


def test_with_files_the_size_is_that_of_the_layers_that_are_read(
    qwen3: Path, qwen25vl: Path
) -> None:
    for part in (klein(qwen3), klein(qwen3, layers=(5,)), vl(qwen25vl, "omnigen2")):
        with torch.device("meta"):
            found = part.skeleton()
        wanted = {k: (v.shape, v.dtype) for k, v in part.build().model.named_parameters()}
        assert {k: (v.shape, v.dtype) for k, v in found.named_parameters()} == wanted

"""FLUX.1 Kontext: its pooled text against transformers' tower, and policies that carry it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from wamkit_flux import Flux1
from wamkit_flux.pooled import VOCABULARY, PooledText, Shape

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import parameters, save
from wamkit.config.check import check
from wamkit.policy import preprocessing
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, compose, observation
from wamkit.testing.parity import float64, same_values, to_float64

KONTEXT = Flux1(variant="kontext-dev")
TINY = KONTEXT.tiny()
PROMPTS = ["pick up the red cup", "Don't  stop: open 2 drawers!", "go " * 100]


def reference(shape: Shape, **more: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="compares with transformers' class")
    config = transformers.CLIPTextConfig(
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=VOCABULARY,
        hidden_act="quick_gelu",
        **more,
    )
    return transformers.CLIPTextModel(config).eval()


@pytest.fixture
def tower(tmp_path: Path) -> tuple[Any, Path]:
    """transformers' class at tiny size with every weight redrawn, and the folder it is saved in."""
    model = reference(Shape(8, layers=2, heads=2), eos_token_id=2)  # as published
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            p.add_(torch.randn(p.shape, generator=rng) * 0.2)
    model.save_pretrained(tmp_path / "text_encoder")
    return model, tmp_path


@pytest.mark.parametrize("prefix", ["", "text_model."])
@torch.no_grad()
@float64()
def test_the_vector_equals_the_pooled_output_of_transformers(
    prefix: str, tower: tuple[Any, Path]
) -> None:
    model, folder = to_float64(tower)
    file = folder / "text_encoder" / "model.safetensors"
    old = {f"{prefix}{name}": tensor for name, tensor in load_file(file).items()}
    if prefix:
        old[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, file)
    pooled: Any = to_float64(TINY.model_copy(update={"weights": str(folder)}).conditioner())
    ids = pooled.tokenizer(PROMPTS)
    end = pooled.tokenizer.eot_token_id
    assert ids.shape == (3, 77) and ids[2, -1] == end
    ends = ids.eq(end).int().argmax(1, keepdim=True)
    ids[torch.arange(77) > ends] = end  # transformers' tokenizer pads with the end itself
    wanted = model(ids).pooler_output
    found = pooled(PROMPTS, None)
    assert wanted.std() > 0.3
    same_values(found[:, 0], wanted)


def test_prompts_become_the_token_ids_of_clips_vocabulary() -> None:
    ids = TINY.conditioner().tokenizer(["a photo of a cat"])[0, :7].tolist()
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_the_published_tower_has_the_names_and_shapes_of_transformers() -> None:
    with torch.device("meta"):
        ours, theirs = PooledText(Shape()), reference(Shape())
    wanted = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == wanted
    assert parameters(ours) == 123_060_480


def test_a_transformer_without_the_tower_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    spec, file = compose(KONTEXT), tmp_path / "flux1-kontext-dev.safetensors"
    save(spec.backbone.build(), file)
    lone = spec.backbone.model_copy(update={"weights": str(file)})
    (conflict,) = check(spec.model_copy(update={"backbone": lone}))
    assert conflict.missing and conflict.between == (
        "backbone.weights",
        "backbone.conditioner_weights",
    )
    assert conflict.why == (
        f"{file} holds no text_encoder/, which this variant of flux1 needs next to its transformer"
    )
    with pytest.raises(WamkitError, match="holds no text_encoder/"):
        lone.conditioner()
    assert lone.build().traits.cond_embeds_width == 8


@float64()
def test_a_policy_reads_each_prompt_once() -> None:
    spec = compose(KONTEXT)
    policy, seen = Policy.from_spec(spec), observation(spec)
    assert policy.conditioner is not None and policy.pooled_text is not None
    inputs = preprocessing.inference_inputs(policy, seen)
    texts = [spec.text_encoder.prompt_template.replace("{instruction}", p) for p in seen.prompt]
    assert inputs.text.cond_embeds is not None
    same_values(inputs.text.cond_embeds, policy.conditioner(texts, None))
    policy.act(seen, seed=0)
    assert policy.pooled_text.encoded == len(set(seen.prompt)) == 2


def test_a_policy_with_a_tower_acts_imagines_and_learns_all_but_the_tower() -> None:
    spec = compose(KONTEXT)
    policy, seen = Policy.from_spec(spec), observation(spec)
    assert policy.act(seen, seed=0).values.isfinite().all()
    assert policy.imagine(seen, seed=0).canvas.isfinite().all()
    policy.train().loss(batch_of(spec), seed=0).total.backward()
    tower = list(policy.conditioner.parameters())  # type: ignore[union-attr]
    assert tower and not any(p.requires_grad or p.grad is not None for p in tower)
    embedder = policy.backbone.time_text_embed.text_embedder  # type: ignore[attr-defined]
    assert all(p.grad.abs().max() > 0 for p in embedder.parameters())


def test_a_saved_policy_holds_the_tower_bit_by_bit(tmp_path: Path, tower: tuple[Any, Path]) -> None:
    _, published = tower
    spec = compose(KONTEXT)
    backbone = spec.backbone.model_copy(update={"conditioner_weights": str(published)})
    policy = Policy.from_spec(spec.model_copy(update={"backbone": backbone}))
    folder = policy.save(tmp_path / "policy")
    (published / "text_encoder" / "model.safetensors").unlink()
    again = Policy.load(folder)
    ours, theirs = policy.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    seen = observation(spec)
    assert torch.equal(policy.act(seen, seed=0).values, again.act(seen, seed=0).values)


def test_a_resized_stack_keeps_the_tower_it_would_have_had() -> None:
    large = KONTEXT.model_copy(update={"weights": "/models/kontext"})
    small = large.resized([0, 19], 24, 12288)
    assert (small.weights, small.conditioner_weights) == (None, "/models/kontext")

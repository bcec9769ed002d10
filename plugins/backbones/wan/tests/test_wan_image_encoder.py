"""Wan 2.1 image-to-video: its image tower against transformers', and policies that carry it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from wamkit_wan import Wan
from wamkit_wan.image_encoder import ImageEncoder, Shape

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import parameters, save
from wamkit.config.check import check
from wamkit.policy import preprocessing
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, compose, observation
from wamkit.testing.parity import float64, same_values, to_float64

I2V = Wan(variant="2.1-i2v-14b")
TINY = I2V.tiny()


def reference(shape: Shape) -> Any:
    transformers = pytest.importorskip("transformers", reason="compares with transformers' class")
    config = transformers.CLIPVisionConfig(
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=shape.image,
        patch_size=shape.patch,
        hidden_act="gelu",
    )
    return transformers.CLIPVisionModel(config).eval()


@pytest.fixture
def tower(tmp_path: Path) -> tuple[Any, Path]:
    """transformers' class at tiny size with every weight redrawn, and the folder it is saved in."""
    model = reference(Shape(16, layers=2, heads=2, image=28))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            p.add_(torch.randn(p.shape, generator=rng) * 0.2)
    model.save_pretrained(tmp_path / "image_encoder")
    return model, tmp_path


@pytest.mark.parametrize("prefix", ["", "vision_model."])
@torch.no_grad()
@float64()
def test_tokens_equal_those_before_the_last_layer_of_transformers(
    prefix: str, tower: tuple[Any, Path]
) -> None:
    model, folder = to_float64(tower)
    file = folder / "image_encoder" / "model.safetensors"
    state = load_file(file)
    old = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    if prefix:
        old[f"{prefix}embeddings.position_ids"] = torch.arange(5)[None]
    save_file(old, file)
    encoder: Any = to_float64(TINY.model_copy(update={"weights": str(folder)}).conditioner())
    images = torch.randint(0, 256, (2, 3, 28, 28), generator=torch.Generator().manual_seed(2))
    transformers = pytest.importorskip("transformers")
    process = transformers.CLIPImageProcessor(do_resize=False, do_center_crop=False)
    pixels = process(list(images.byte()), return_tensors="pt")["pixel_values"]
    wanted = model(pixels.double(), output_hidden_states=True).hidden_states[-2]
    found = encoder((), images / 127.5 - 1)
    assert wanted.std() > 0.3
    same_values(found, wanted, 1e-5)  # the processor rounds pixels to float32


@torch.no_grad()
@float64()
def test_an_image_of_any_size_is_squeezed_to_the_square_the_tower_was_trained_on() -> None:
    encoder = TINY.conditioner()
    wide = torch.rand(1, 3, 40, 64) * 2 - 1
    square = torch.nn.functional.interpolate(wide, (28, 28), mode="bicubic", align_corners=False)
    assert encoder((), wide).shape == (1, 5, 16)
    same_values(encoder((), wide), encoder((), square))


def test_the_published_tower_has_the_names_and_shapes_of_transformers_but_for_the_end() -> None:
    with torch.device("meta"):
        ours, theirs = ImageEncoder(Shape()), reference(Shape())
    end = ("encoder.layers.31.", "post_layernorm.")
    wanted = {k: v.shape for k, v in theirs.state_dict().items() if not k.startswith(end)}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == wanted
    assert parameters(ours) == 611_086_080


def test_a_transformer_without_the_tower_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    spec = compose(I2V)
    (tmp_path / "transformer").mkdir()
    save(spec.backbone.build(), tmp_path / "transformer" / "model.safetensors")

    def around(**paths: str) -> Any:
        return spec.model_copy(update={"backbone": spec.backbone.model_copy(update=paths)})

    lone = around(weights=str(tmp_path))
    (conflict,) = check(lone)
    assert conflict.missing and conflict.why == (
        f"{tmp_path} holds no image_encoder/, which this variant of wan needs next to its "
        "transformer"
    )
    assert conflict.hint == (
        "name the folder that holds both, or set backbone.conditioner_weights to one with "
        "image_encoder/, or to its file"
    )
    assert lone.backbone.build().traits == spec.backbone.traits
    with pytest.raises(WamkitError, match="holds no image_encoder/"):
        lone.backbone.conditioner()
    (conflict,) = check(around(conditioner_weights=str(tmp_path / "none.safetensors")))
    assert conflict.why == f"nothing is at {tmp_path / 'none.safetensors'}"
    file = tmp_path / "elsewhere" / "tower.safetensors"
    file.parent.mkdir()
    save(spec.backbone.conditioner(), file)
    both = around(weights=str(tmp_path), conditioner_weights=str(file))
    assert check(both) == []
    assert Policy.from_spec(both).act(observation(spec), seed=0).values.isfinite().all()


def test_estimates_of_acting_and_of_training_count_the_tower() -> None:
    from wamkit.policy.footprint import footprint, tensor_bytes
    from wamkit.train.config import Parts
    from wamkit.train.plan import work

    spec = compose(I2V)
    held = tensor_bytes(spec.backbone.conditioner().parameters())
    found = footprint(spec, **next(iter(spec.paradigm.variants.values())))
    assert found.weights["conditioner"] == held > 0 and not found.left_out
    frozen = Parts.model_validate({"backbone": {"freeze": True}})
    learned = sum(4 * p.numel() for p in spec.backbone.build().parameters())
    assert work(spec, frozen).resting - work(spec).resting == learned
    assert work(spec).resting >= held and not work(spec).left_out


def test_a_policy_shows_its_first_image_to_the_tower() -> None:
    spec = compose(I2V)
    assert spec.backbone.traits.cond_embeds_width == 16
    policy, seen = Policy.from_spec(spec), observation(spec)
    inputs = preprocessing.inference_inputs(policy, seen)
    assert policy.conditioner is not None
    wanted = policy.conditioner((), preprocessing.canvas_of(policy, seen)[:, :, 0])
    assert inputs.text.cond_embeds is not None and torch.equal(inputs.text.cond_embeds, wanted)
    learned = preprocessing.training_inputs(policy, batch_of(spec))
    assert learned.text.cond_embeds is not None and learned.text.cond_embeds.shape == (2, 5, 16)


def test_a_policy_with_a_tower_acts_imagines_and_learns_all_but_the_tower() -> None:
    spec = compose(I2V)
    policy, seen = Policy.from_spec(spec), observation(spec)
    assert policy.act(seen, seed=0).values.isfinite().all()
    assert policy.imagine(seen, seed=0).canvas.isfinite().all()
    policy.train().loss(batch_of(spec), seed=0).total.backward()
    assert policy.conditioner is not None
    tower = list(policy.conditioner.parameters())  # type: ignore[attr-defined]
    assert tower and not any(p.requires_grad or p.grad is not None for p in tower)
    embedder = policy.backbone.condition_embedder.image_embedder  # type: ignore[attr-defined]
    assert all(p.grad.abs().max() > 0 for p in embedder.parameters())


def test_a_saved_policy_holds_the_tower_bit_by_bit(tmp_path: Path, tower: tuple[Any, Path]) -> None:
    _, published = tower
    spec = compose(I2V)
    save(spec.backbone.build(), published / "model.safetensors")
    backbone = spec.backbone.model_copy(
        update={
            "weights": str(published / "model.safetensors"),
            "conditioner_weights": str(published),
        }
    )
    policy = Policy.from_spec(spec.model_copy(update={"backbone": backbone, "dtype": "bfloat16"}))
    folder = policy.save(tmp_path / "policy")
    for file in published.glob("**/*.safetensors"):
        if folder not in file.parents:
            file.unlink()
    again = Policy.load(folder)
    ours, theirs = policy.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours["conditioner.pre_layrnorm.weight"].dtype == torch.float32
    seen = observation(spec)
    assert torch.equal(policy.act(seen, seed=0).values, again.act(seen, seed=0).values)
    (folder / "conditioner.safetensors").unlink()
    with pytest.raises(WamkitError, match=r"lacks conditioner\.safetensors"):
        Policy.load(folder)


def test_a_resized_stack_keeps_the_tower_it_would_have_had() -> None:
    small = I2V.model_copy(update={"weights": "/models/wan"}).resized([0, 1], 40, 13824)
    assert (small.weights, small.conditioner_weights) == (None, "/models/wan")
    assert Wan(weights="/models/wan").resized([0], 24, 14336).conditioner_weights is None

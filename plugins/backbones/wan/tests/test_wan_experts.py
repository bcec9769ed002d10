"""Wan 2.2 A14B: which of its two transformers is read, and how a policy guides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from wamkit_wan import Wan, WanVAE22

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import save
from wamkit.config.check import check
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import batch_of, compose, observation
from wamkit.testing.parity import float64, same_values

SMALL: dict[str, Any] = {"layers": 1, "num_heads": 1, "head_dim": 24, "mlp_dim": 8}
SMALL |= {"text_width": 8}


@pytest.mark.parametrize(
    ("high", "low"), [("transformer", "transformer_2"), ("high_noise_model", "low_noise_model")]
)
def test_the_expert_is_read_from_its_own_folder(tmp_path: Path, high: str, low: str) -> None:
    made = {}
    for folder, noise in ((high, "high"), (low, "low")):
        made[noise] = Wan(variant="2.2-t2v-a14b", **SMALL).build()
        (tmp_path / folder).mkdir()
        save(made[noise], tmp_path / folder / "diffusion_pytorch_model.safetensors")
    for noise, model in made.items():
        raw = {"variant": "2.2-t2v-a14b", "noise": noise, "weights": str(tmp_path), **SMALL}
        found = Wan.model_validate(raw).build().state_dict()
        assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    with pytest.raises(WamkitError, match="no safetensors file in"):
        Wan(variant="2.2-ti2v-5b", weights=str(tmp_path.parent), **SMALL).build()


def test_an_expert_of_a_single_transformer_is_refused() -> None:
    spec = compose(Wan(variant="2.2-ti2v-5b"))
    wrong = spec.model_copy(update={"backbone": spec.backbone.model_copy(update={"noise": "high"})})
    assert [c.why for c in check(wrong)] == [
        "tiny is one transformer, it has no other for high noise"
    ]


@float64()
def test_a_policy_shows_what_is_observed_in_the_cond_channels() -> None:
    spec = compose(Wan(variant="2.2-i2v-a14b"))
    assert spec.backbone.traits.cond_channels == 20 == spec.vae.stride[0] + spec.vae.channels
    policy = Policy.from_spec(spec)
    inputs = inference_inputs(policy, observation(spec))
    assert inputs.video is not None and inputs.video.cond_latents is not None
    mask, z = inputs.video.cond_latents.split([4, 16], 1)
    assert mask[:, :, 0].eq(1).all() and mask[:, :, 1:].eq(0).all()
    # The first latent is of the first image alone, so the guide shows it as it is.
    same_values(z[:, :, 0], inputs.video.z[:, :, 0])
    assert inputs.video.only("context").cond_latents is not None


def test_a_guided_policy_acts_learns_and_imagines() -> None:
    spec = compose(Wan(variant="2.2-i2v-a14b"))
    policy = Policy.from_spec(spec)
    seen = observation(spec)
    assert policy.act(seen, seed=0).values.isfinite().all()
    assert policy.imagine(seen, seed=0).canvas.isfinite().all()
    policy.train().loss(batch_of(spec), seed=0).total.backward()
    weight = policy.backbone.patch_embedding.weight  # type: ignore[attr-defined]
    assert weight.grad[:, 16:].abs().max() > 0


def test_another_vae_cannot_make_the_guide() -> None:
    spec = compose(Wan(variant="2.2-i2v-a14b"))
    vae = WanVAE22(width="tiny", adapter="linear")
    (conflict,) = [c for c in check(spec.model_copy(update={"vae": vae})) if "guided" in c.why]
    assert "is guided by 20 channels, wan2.2 makes 4 of mask and 48 of latents" in conflict.why

"""The configurations of FLUX: variants, tiny forms, and what a policy cannot be made of."""

from __future__ import annotations

import pytest
from wamkit_flux import SIZES_2, Flux1, Flux2

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import parameters
from wamkit.config.spec import parse_part


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    large = Flux2(variant="klein-9b").model_dump()
    assert {key: large[key] for key in SIZES_2["klein-9b"]} == SIZES_2["klein-9b"]
    assert Flux2(single_layers=12).single_layers == 12
    written = Flux1(num_heads=12)
    assert parse_part("backbone", written.model_dump(mode="json")) == written
    with pytest.raises(WamkitError, match=r"backbone\.variant: input should be 'klein-4b'"):
        parse_part("backbone", {"name": "flux2", "variant": "4b"})


def test_the_tiny_form_takes_the_latents_and_options_of_its_variant() -> None:
    for config in (Flux2(guidance=4.0), Flux1(text_sigma="target")):
        large, tiny = config.traits, config.tiny()
        assert tiny.traits.latent_channels == large.latent_channels
        assert tiny.traits.patch_size == large.patch_size
        assert (tiny.guidance, tiny.text_sigma) == (config.guidance, config.text_sigma)
        assert parameters(tiny.build()) < 1_000_000

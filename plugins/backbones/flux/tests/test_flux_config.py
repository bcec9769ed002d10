"""The configurations of FLUX: variants, tiny forms, and what a policy cannot be made of."""

from __future__ import annotations

import pytest
from wamkit_flux import SIZES_2, Flux1, Flux2

from wamkit import WamkitError
from wamkit.check import check
from wamkit.spec import parse_part
from wamkit.trial import compose
from wamkit.weights import parameters


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    assert Flux2(variant="klein-9b").model_dump() == {
        "name": "flux2", "weights": None, "variant": "klein-9b", "latent_channels": 128,
        "guidance": None, "text_sigma": "clean", **SIZES_2["klein-9b"],
    }  # fmt: skip
    assert Flux2(single_layers=12).single_layers == 12
    written = Flux1(heads=12)
    assert parse_part("backbone", written.model_dump(mode="json")) == written
    with pytest.raises(WamkitError, match=r"backbone\.variant: input should be 'klein-4b'"):
        parse_part("backbone", {"name": "flux2", "variant": "4b"})


def test_the_tiny_form_takes_the_latents_and_options_of_its_variant() -> None:
    for config in (Flux2(guidance=4.0), Flux1(text_sigma="target")):
        large, tiny = config.traits, config.tiny()
        assert tiny.traits.latent_channels == large.latent_channels
        assert tiny.traits.patch == large.patch
        assert (tiny.guidance, tiny.text_sigma) == (config.guidance, config.text_sigma)
        assert parameters(tiny.build()) < 1_000_000


def test_a_policy_of_kontext_is_refused_because_nothing_makes_its_pooled_text() -> None:
    spec = compose(Flux1())
    large = spec.model_copy(update={"backbone": Flux1(text_width=spec.backbone.traits.text_width)})
    (conflict,) = [c for c in check(large) if c.between == ("backbone",)]
    assert "must be given image-encoder tokens of width 768" in conflict.why

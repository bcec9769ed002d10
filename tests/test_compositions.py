"""Any backbone with any VAE and any text encoder acts and trains, or says what would make it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from wamkit import check
from wamkit.config.parts import Part
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse_part
from wamkit.policy.build import resolve
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import around, batch_of, compose, default, observation

# A cure, as a hint words it, and what following it changes.
CURES: dict[str, tuple[str, dict[str, Any]]] = {
    'vae.adapter = "linear"': ("vae", {"adapter": "linear"}),
    'text_encoder.adapter = "linear"': ("text_encoder", {"adapter": "linear"}),
}


def _tiny(kind: str, name: str) -> Part:
    part = default(registry().parts[kind][name]).tiny()
    return part if isinstance(part, Part) else parse_part(kind, part)


def _spec(**chosen: Part) -> PolicySpec:
    """A small robot around the parts chosen, the others as they fit the backbone."""
    usual = compose(chosen["backbone"])
    kinds = ("backbone", "vae", "text_encoder", "action_head", "paradigm")
    return around({kind: chosen.get(kind, getattr(usual, kind)) for kind in kinds})


def _fixed(spec: PolicySpec) -> tuple[PolicySpec, list[str]]:
    """The spec after every hint that names a cure was followed, and what is still wrong."""
    for _ in range(3):
        hints = [conflict.hint for conflict in check(spec)]
        followed = False
        for hint, (message, (kind, change)) in product(hints, CURES.items()):
            if message in hint:
                spec = spec.model_copy(update={kind: getattr(spec, kind).model_copy(update=change)})
                followed = True
        if not followed:
            break
    return spec.fitted(), [str(conflict) for conflict in check(spec)]


def _lives(spec: PolicySpec) -> None:
    policy = Policy.from_spec(resolve(spec))
    assert policy.act(observation(spec), seed=0).values.isfinite().all()
    losses = policy.train().loss(batch_of(spec), seed=0)
    losses.total.backward()
    assert losses.total.isfinite()
    assert any(p.grad is not None for p in policy.backbone.parameters())  # type: ignore[attr-defined]


BACKBONES, VAES = registry().names("backbone"), registry().names("vae")


@pytest.mark.parametrize(("backbone", "vae"), list(product(BACKBONES, VAES)))
def test_any_backbone_takes_any_vae(backbone: str, vae: str) -> None:
    torch.manual_seed(0)
    spec, wrong = _fixed(_spec(backbone=_tiny("backbone", backbone), vae=_tiny("vae", vae)))
    if wrong:
        # A vision encoder reads pixels: nothing but its own cut of them is mathematically the same.
        assert not spec.backbone.traits.imagines, wrong
        assert all("hint: " in line for line in wrong)
        return
    _lives(spec)


# Published encoders cannot exist without their files; their tiny form is another part, tried here.
ENCODERS = [n for n in registry().names("text_encoder") if _tiny("text_encoder", n).name == n]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_backbone_takes_any_text_encoder(backbone: str, encoder: str) -> None:
    part = _tiny("text_encoder", encoder)
    torch.manual_seed(0)
    spec, wrong = _fixed(_spec(backbone=_tiny("backbone", backbone), text_encoder=part))
    assert not wrong
    _lives(spec)

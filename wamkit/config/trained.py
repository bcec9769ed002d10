"""Whether VAE and text encoder are those that a backbone's published weights know.

Equal sizes are no proof: T5 and UMT5 make embeddings of one width, and most VAEs latents of 16
channels. The meaning of such latents differs, and a backbone that is given others than it was
trained with learns as if from nothing, or worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parts import BackboneConfig, Caution
from .registry import registry

if TYPE_CHECKING:
    from .spec import PolicySpec


def named(backbone: BackboneConfig, kind: str) -> str:
    """The parts of a kind that the backbone was trained with, in brackets; empty if not known."""
    names = getattr(backbone.traits.trained_with, kind)
    return f" ({' or '.join(names)})" if names else ""


def naming_hint(backbone: BackboneConfig, kind: str) -> str:
    """Those parts for a hint, with the key that names the first that is installed."""
    names = getattr(backbone.traits.trained_with, kind)
    installed = [f'"{name}"' for name in names if name in registry().parts[kind]]
    setting = f": set {kind}.name = {' or '.join(installed)}" if installed else ""
    return f"{named(backbone, kind)}{setting}"


def strange_vae(spec: PolicySpec) -> Iterator[Caution]:
    """A caution if the VAE fits by size, and its latents mean something else."""
    vae, backbone = spec.vae, spec.backbone
    known, space = backbone.traits.trained_with.vae, vae.latent_space
    same_size = vae.channels == backbone.traits.latent_channels
    if not known or space is None or {space, vae.name} & set(known):
        return
    if vae.adapter != "none" or not same_size:
        return
    yield Caution(
        between=("vae", "backbone"),
        why=f"{_label(backbone)} was trained with {' or '.join(known)}; latents of {vae.name} have "
        f"as many channels, {vae.channels}, and mean something else",
        hint=f'set vae.name = "{known[0]}", or vae.adapter = "linear" to learn projections between '
        "the two; without published weights it does not matter",
    )


def strange_text_encoder(spec: PolicySpec) -> Iterator[Caution]:
    """A caution if the text encoder fits by width, and its embeddings mean something else."""
    encoder, backbone = spec.text_encoder, spec.backbone
    known, space = backbone.traits.trained_with.text_encoder, encoder.embedding_space
    if not known or space is None or {space, encoder.name} & set(known):
        return
    if encoder.adapter != "none" or encoder.width != backbone.traits.text_width:
        return
    yield Caution(
        between=("text_encoder", "backbone"),
        why=f"{_label(backbone)} was trained with {' or '.join(known)}; embeddings of "
        f"{encoder.name} are as wide, {encoder.width}, and mean something else",
        hint=f'set text_encoder.name = "{known[0]}", or text_encoder.adapter = "linear" to learn a '
        "projection; without published weights it does not matter",
    )


def _label(backbone: BackboneConfig) -> str:
    return " ".join(filter(None, (backbone.name, getattr(backbone, "variant", None))))

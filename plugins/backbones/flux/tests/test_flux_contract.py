"""The FLUX backbones and VAEs keep the contracts of their kinds."""

from __future__ import annotations

from wamkit_flux import Flux1, Flux1VAE, Flux2, Flux2VAE

from wamkit.testing import *  # noqa: F403

PARTS = [Flux2(), Flux1(), Flux2VAE(), Flux1VAE()]

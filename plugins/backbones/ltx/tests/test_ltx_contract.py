"""The contract tests of wamkit on every part of the LTX plugin."""

from __future__ import annotations

import pytest
from wamkit_ltx import LTX, LTX2, LTX2VAE, LTXVAE

from wamkit.testing import *  # noqa: F403

pytest.importorskip("diffusers", reason="the VAEs are diffusers' classes")

PARTS = [LTX(), LTX2(), LTX2(variant="2.3"), LTXVAE(), LTX2VAE()]

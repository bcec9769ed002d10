"""What the tests of ImageWAM's import share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from wamkit.policy.importing import plan_import
from wamkit.policy.policy import Policy


def fill(module: nn.Module) -> None:
    """The weights that `make_imagewam_tiny.py` fills in."""
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + i)
            scale = 1 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.copy_((wave * scale + (p.ndim == 1)).to(p.dtype).view_as(p))


@pytest.fixture(scope="session")
def import_released() -> Callable[[Path, tuple[str, ...]], Policy]:
    """Import a released folder at given sizes, with the VAE and text encoder of the record."""

    def make(folder: Path, sizes: tuple[str, ...]) -> Policy:
        plan = plan_import(folder, None, sizes)
        found = Policy.load(plan.write(folder / "policy", random_parts=True))
        for part in (found.vae, found.text_embeddings.encoder):
            assert isinstance(part, nn.Module)
            fill(part)
        return found

    return make

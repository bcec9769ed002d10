"""The `my_backbone` backbone keeps wamkit's contract.

The import of wamkit.testing brings every contract test: true traits, attention by role,
padding, gradients, saving and loading, bfloat16, and whole policies around each of PARTS.
"""

from __future__ import annotations

from typing import Any

import torch
from wamkit.interfaces import denoise
from wamkit.interfaces.types import Frames, Text
from wamkit.testing import *  # noqa: F403
from wamkit.testing.parity import other_values

from wamkit_my_backbone import MyBackbone

PARTS = [MyBackbone()]


def small() -> Any:
    sizes = {"depth": 1, "num_heads": 1, "head_dim": 8, "latent_channels": 2, "text_width": 4}
    return MyBackbone(**sizes).build()


def test_the_order_of_text_tokens_matters() -> None:
    rng, model = torch.Generator().manual_seed(0), small()
    z, tokens = torch.randn(1, 2, 1, 4, 4, generator=rng), torch.randn(1, 5, 4, generator=rng)
    frames = Frames(z, ("target",), (0.0,), torch.tensor([[0.5]]))
    with torch.no_grad():
        one, two = (denoise(model, frames, Text(x)) for x in (tokens, tokens.flip(1)))
    assert one.shape == z.shape
    other_values(one, two, 1e-5)

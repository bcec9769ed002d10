"""What the toy's last layer says: the velocity, or the data that it is computed from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from wamkit_toy import Toy
from wamkit_toy.backbone import MIN_SIGMA

from wamkit.interfaces import denoise
from wamkit.interfaces.types import Frames, Text
from wamkit.testing.parity import float64, other_values, same_values, to_float64

SIZES = {"depth": 1, "num_heads": 2, "head_dim": 12, "text_width": 16, "latent_channels": 3}


def scene(z: Tensor, level: float) -> tuple[Frames, Text]:
    """Two target frames at one level, and a prompt."""
    sigma = torch.full((len(z), 2), level)
    text = Text(torch.randn(len(z), 5, 16, generator=torch.Generator().manual_seed(1)))
    return Frames(z, ("target", "target"), (0.0, 1.0), sigma), text


@pytest.mark.parametrize("level", [1.0, 0.4, 0.01])
@torch.no_grad()
@float64()
def test_predicted_data_gives_the_velocity_that_leads_there(level: float) -> None:
    backbone = to_float64(Toy(**SIZES, predicts="data").build())
    nn.init.zeros_(backbone.leave.weight)
    nn.init.constant_(backbone.leave.bias, 0.3)  # it predicts this everywhere
    z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    v = denoise(backbone, *scene(z, level))
    same_values(v, (z - 0.3) / max(level, MIN_SIGMA))
    if level > MIN_SIGMA:
        same_values(z - level * v, torch.full_like(z, 0.3))


def test_the_weights_are_the_same_whatever_is_predicted() -> None:
    one, other = (Toy(**SIZES, predicts=p).build().state_dict() for p in ("velocity", "data"))
    assert {name: w.shape for name, w in one.items()} == {n: w.shape for n, w in other.items()}


@torch.no_grad()
@float64()
def test_a_patch_knows_where_in_the_image_it_is() -> None:
    backbone = to_float64(Toy(**SIZES).build())
    z = torch.ones(1, 3, 2, 4, 4)  # every patch alike
    v = denoise(backbone, *scene(z, 0.5))
    patches = v.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).transpose(4, 5)[0, :, 0]
    corner = patches[:, 0, 0]
    other_values(patches[:, 0, 1], corner, 1e-5)
    other_values(patches[:, 1, 0], corner, 1e-5)

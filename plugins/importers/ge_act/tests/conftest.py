"""A VAE that the records of GE-Act and the policies of their tests have in common."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

PATCH, STRIDE = 16, (8, 32, 32)


class LinearVAE(nn.Module):
    """A VAE for records that only encodes: a latent sees its last image, as 2 x 2 mean colors."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)  # [C, 12]
        self.channels, self.stride = len(matrix), STRIDE

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, 1 + 8 k, H, W] to latents [B, C, 1 + k, H / 32, W / 32]."""
        last = pixels[:, :, :: STRIDE[0]]
        flat = F.avg_pool2d(last.transpose(1, 2).flatten(0, 1), PATCH)  # [B T, 3, H / 16, W / 16]
        blocks = F.pixel_unshuffle(flat, STRIDE[1] // PATCH)  # [B T, 12, H / 32, W / 32]
        z = (self.matrix @ blocks.flatten(2)).unflatten(2, blocks.shape[2:])
        return z.unflatten(0, (len(pixels), -1)).transpose(1, 2)


@pytest.fixture(scope="session")
def linear_vae() -> type[LinearVAE]:
    """The class, which a test cannot import."""
    return LinearVAE

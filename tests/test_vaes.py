"""VAEs that several families share are one part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import wamkit
from wamkit.testing.parity import float64, same_values


@torch.no_grad()
@float64()
def test_the_vae_of_qwen_image_is_that_of_wan(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLQwenImage(base_dim=4, z_dim=16).eval()
    for p in theirs.parameters():
        p.add_(0.1 * torch.randn_like(p))
    theirs.save_pretrained(tmp_path)
    config = {"name": "wan2.1", "width": "tiny", "weights": str(tmp_path)}
    ours = wamkit.load_part("vae", config)
    pixels = torch.rand(1, 3, 5, 16, 24) * 2 - 1
    mean, std = (
        torch.tensor(numbers).view(1, -1, 1, 1, 1)
        for numbers in (theirs.config.latents_mean, theirs.config.latents_std)
    )
    z = ours.encode(pixels)
    expected = (theirs.encode(pixels).latent_dist.mode() - mean) / std
    same_values(z, expected)
    decoded = theirs.decode(z * std + mean).sample.clamp(-1, 1)
    same_values(ours.decode(z), decoded)

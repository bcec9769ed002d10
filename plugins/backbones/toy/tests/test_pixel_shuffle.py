"""The pixel-shuffle VAE is exact in both directions, causal, and says which sizes it takes."""

from __future__ import annotations

import pytest
import torch
from wamkit_toy.parts import PixelShuffle as Config
from wamkit_toy.vae import PixelShuffle

from wamkit.interfaces import VAE

STRIDES = [(1, 1, 1), (1, 2, 2), (4, 8, 8), (4, 2, 6), (3, 4, 2)]


def clip(stride: tuple[int, int, int], latents: int = 3) -> torch.Tensor:
    t, h, w = stride
    rng = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 1 + (latents - 1) * t, 3 * h, 2 * w, generator=rng) * 2 - 1


@pytest.mark.parametrize("stride", STRIDES)
def test_images_come_back_bit_for_bit(stride: tuple[int, int, int]) -> None:
    vae, pixels = PixelShuffle(stride), clip(stride)
    z = vae.encode(pixels)
    assert z.shape == (2, vae.channels, 3, 3, 2)
    assert torch.equal(vae.decode(z), pixels)


@pytest.mark.parametrize("stride", STRIDES)
def test_the_configuration_states_what_is_built(stride: tuple[int, int, int]) -> None:
    config = Config(strides=stride)
    vae = config.build()
    assert isinstance(vae, VAE)
    assert (config.channels, config.stride) == (vae.channels, vae.stride)


def test_a_latent_holds_exactly_its_own_images() -> None:
    vae, pixels = PixelShuffle((4, 2, 2)), clip((4, 2, 2))
    z = vae.encode(pixels)
    changed = pixels.clone()
    changed[:, :, 4] = 0  # the last image of latent 1
    difference = (vae.encode(changed) != z).any(dim=(0, 1, 3, 4))
    assert difference.tolist() == [False, True, False]


def test_the_first_image_is_a_latent_by_itself() -> None:
    vae, pixels = PixelShuffle((4, 2, 2)), clip((4, 2, 2))
    alone = vae.encode(pixels[:, :, :1])
    assert torch.equal(alone, vae.encode(pixels)[:, :, :1])
    assert torch.equal(vae.decode(alone), pixels[:, :, :1])


def test_neighboring_pixels_share_a_latent() -> None:
    pixels = torch.zeros(1, 3, 1, 4, 4)
    pixels[..., 2:, :2] = 1  # the lower left block
    z = PixelShuffle((1, 2, 2)).encode(pixels)
    assert z[0, :, 0].mean(0).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("shape", [(1, 3, 4, 8, 8), (1, 3, 5, 9, 8), (1, 3, 5, 8, 12)])
def test_sizes_that_do_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    _, _, frames, height, width = shape
    with pytest.raises(ValueError, match="expected") as caught:
        PixelShuffle((4, 8, 8)).encode(torch.zeros(shape))
    assert str(caught.value) == (
        f"found pixels with T = {frames}, H = {height}, W = {width}; expected [B, 3, T, H, W] with "
        "T = 1 + 4k, H a multiple of 8 and W a multiple of 8"
    )


def test_other_axes_and_channels_are_refused() -> None:
    vae = PixelShuffle((4, 8, 8))
    with pytest.raises(ValueError, match=r"found pixels of shape \[1, 3, 8, 8\]; expected \[B, 3"):
        vae.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(
        ValueError,
        match=r"found latents of shape \[1, 16, 1, 2, 2\]; expected \[B, 768, T, H, W\]",
    ):
        vae.decode(torch.zeros(1, 16, 1, 2, 2))


def test_weights_are_refused_since_there_are_none() -> None:
    conflicts = list(Config(weights="some/folder").conflicts(spec=None))  # type: ignore[arg-type]
    assert [c.why for c in conflicts] == ["pixel_shuffle has no weights, found some/folder"]
    assert list(Config().conflicts(spec=None)) == []  # type: ignore[arg-type]

"""The Wan VAE equals diffusers' AutoencoderKLWan, and is causal."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from wamkit_wan.vae import WAN21, WAN22, WanVAE, WanVAEShape, patchify, tiny, unpatchify

from wamkit.testing.parity import float64, other_values, same_values, to_float64

SHAPES = {"wan21": WAN21, "wan22": WAN22}
variants = pytest.mark.parametrize("variant", ["wan21", "wan22"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vaes() -> dict[str, WanVAE]:
    """A tiny VAE of each variant whose every parameter is drawn at random."""
    return {name: randomize_parameters(WanVAE(tiny(shape))) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def references(vaes: dict[str, WanVAE]) -> dict[str, Any]:
    """diffusers' VAEs with the same weights."""
    references = {}
    for name, vae in vaes.items():
        references[name] = reference_of(vae.config).eval()
        references[name].load_state_dict(vae.state_dict())
    return references


def randomize_parameters(vae: WanVAE) -> WanVAE:
    """Draw every parameter, so that no norm, bias or branch is trivial; pixels stay in range."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if name.endswith("gamma"):
                parameter.copy_(1 + 0.2 * draw)
            else:
                parameter.copy_(draw * (0.1 if draw.ndim == 1 else draw[0].numel() ** -0.5))
        vae.decoder.conv_out.weight.mul_(0.2)
    return vae


def reference_of(shape: WanVAEShape) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own VAE")
    return diffusers.AutoencoderKLWan(
        base_dim=shape.base_width,
        decoder_base_dim=shape.decoder_width,
        z_dim=shape.latent_channels,
        dim_mult=list(shape.width_multipliers),
        num_res_blocks=shape.residual_blocks,
        temperal_downsample=list(shape.temporal_downsample),
        latents_mean=list(shape.latents_mean),
        latents_std=list(shape.latents_std),
        is_residual=shape.residual,
        in_channels=3 * shape.patch**2,
        out_channels=3 * shape.patch**2,
        patch_size=shape.patch if shape.patch > 1 else None,
        scale_factor_temporal=shape.stride[0],
        scale_factor_spatial=shape.stride[1],
    )


def latent_constants(shape: WanVAEShape) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(shape.latents_mean), torch.tensor(shape.latents_std)
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)


def reference_encode(reference: Any, shape: WanVAEShape, pixels: Tensor) -> Tensor:
    mean, std = latent_constants(shape)
    return (reference.encode(pixels).latent_dist.mode() - mean) / std


def reference_decode(reference: Any, shape: WanVAEShape, z: Tensor) -> Tensor:
    mean, std = latent_constants(shape)
    return reference.decode(z * std + mean).sample


def clip(frames: int, batch: int = 1, height: int = 32, width: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, height, width, generator=generator) * 2 - 1


def latents(vae: WanVAE, frames: int, batch: int = 1, height: int = 2, width: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, vae.channels, frames, height, width, generator=generator)


# Equal to diffusers ------------------------------------------------------------------------------


@variants
@pytest.mark.parametrize("size", ["tiny", "published"])
def test_keys_and_shapes_are_those_of_diffusers(variant: str, size: str) -> None:
    shape = tiny(SHAPES[variant]) if size == "tiny" else SHAPES[variant]
    with torch.device("meta"):
        ours, theirs = WanVAE(shape).state_dict(), reference_of(shape).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@variants
@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (1, 2), (5, 2), (9, 1)])
@float64()
def test_encode_equals_diffusers(
    variant: str, frames: int, batch: int, vaes: dict[str, WanVAE], references: dict[str, Any]
) -> None:
    vae, pixels = to_float64(vaes[variant]), clip(frames, batch)
    with torch.no_grad():
        z = vae.encode(pixels)
        expected = reference_encode(to_float64(references[variant]), vae.config, pixels)
    assert z.shape[2:] == (1 + (frames - 1) // 4, 32 // vae.stride[1], 48 // vae.stride[2])
    same_values(z, expected)


@variants
@pytest.mark.parametrize(("frames", "batch"), [(1, 2), (2, 2), (3, 1)])
@float64()
def test_decode_equals_diffusers(
    variant: str, frames: int, batch: int, vaes: dict[str, WanVAE], references: dict[str, Any]
) -> None:
    vae = to_float64(vaes[variant])
    z = latents(vae, frames, batch)
    with torch.no_grad():
        pixels = vae.decode(z)
        expected = reference_decode(to_float64(references[variant]), vae.config, z)
    assert pixels.shape[2:] == (1 + 4 * (frames - 1), 2 * vae.stride[1], 3 * vae.stride[2])
    assert (pixels.abs() < 1).float().mean() > 0.8, "the clamp hides what should be compared"
    same_values(pixels, expected)


@variants
@pytest.mark.parametrize("frames", [1, 5])
@float64()
def test_gradients_of_encode_equal_diffusers(
    variant: str, frames: int, vaes: dict[str, WanVAE], references: dict[str, Any]
) -> None:
    vae, reference = to_float64((vaes[variant], references[variant]))
    ours = gradient(vae.encode, clip(frames))
    theirs = gradient(lambda x: reference_encode(reference, vae.config, x), clip(frames))
    same_values(ours, theirs)


@variants
@pytest.mark.parametrize("frames", [1, 2])
@float64()
def test_gradients_of_decode_equal_diffusers(
    variant: str, frames: int, vaes: dict[str, WanVAE], references: dict[str, Any]
) -> None:
    vae, reference = to_float64((vaes[variant], references[variant]))
    theirs = gradient(lambda z: reference_decode(reference, vae.config, z), latents(vae, frames))
    same_values(gradient(vae.decode, latents(vae, frames)), theirs)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The input gradient of a weighted sum of outputs, at a scale where 1e-4 means something."""
    x = x.clone().requires_grad_()
    y = function(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(7))
    (result,) = torch.autograd.grad((y * weights).sum(), x)
    assert result.abs().max() > 0.1
    return result


# What it promises about time ---------------------------------------------------------------------


@variants
@float64()
def test_first_frame_alone_gives_the_first_latent_of_the_clip(
    variant: str, vaes: dict[str, WanVAE]
) -> None:
    vae, pixels = to_float64(vaes[variant]), clip(5)
    with torch.no_grad():
        alone, whole = vae.encode(pixels[:, :, :1]), vae.encode(pixels)
    same_values(alone, whole[:, :, :1])


@variants
@torch.no_grad()
@float64()
def test_a_clip_in_pieces_gives_the_latents_of_the_whole(
    variant: str, vaes: dict[str, WanVAE]
) -> None:
    vae, pixels = to_float64(vaes[variant]), clip(13).double()
    first, past = vae.encode_next(pixels[:, :, :5])
    second, after = vae.encode_next(pixels[:, :, 5:9], past)
    third, _ = vae.encode_next(pixels[:, :, 9:], after)
    same_values(torch.cat([first, second, third], 2), vae.encode(pixels))
    again, _ = vae.encode_next(pixels[:, :, 5:9], past)  # what it remembered is as it was
    same_values(again, second)
    with pytest.raises(ValueError, match="T = 4k"):
        vae.encode_next(pixels[:, :, :5], past)


@variants
@float64()
def test_later_frames_do_not_change_earlier_latents(variant: str, vaes: dict[str, WanVAE]) -> None:
    vae, pixels = to_float64(vaes[variant]), clip(9)
    changed = pixels.clone()
    changed[:, :, 5:] = -changed[:, :, 5:]
    with torch.no_grad():
        before, after = vae.encode(pixels), vae.encode(changed)
    torch.testing.assert_close(before[:, :, :2], after[:, :, :2], rtol=0, atol=0)
    other_values(before[:, :, 2], after[:, :, 2], 0.01)


@variants
def test_one_frame_runs_no_convolution_over_time(
    variant: str, vaes: dict[str, WanVAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, kernels = nn.functional.conv3d, []

    def spy(x: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        kernels.append(weight.shape[2])
        return real(x, weight, *rest, **named)

    monkeypatch.setattr(nn.functional, "conv3d", spy)
    vae = vaes[variant]
    with torch.no_grad():
        vae.decode(vae.encode(clip(1)))
        assert set(kernels) <= {1}
        vae.encode(clip(5))
        assert 3 in kernels


@variants
def test_two_threads_share_a_model(variant: str, vaes: dict[str, WanVAE]) -> None:

    def there_and_back(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return vaes[variant].decode(vaes[variant].encode(pixels))

    clips = [clip(5), clip(9), clip(1), clip(5, height=64)]
    expected = [there_and_back(pixels) for pixels in clips]
    with ThreadPoolExecutor(2) as pool:
        for found, wanted in zip(pool.map(there_and_back, clips), expected, strict=True):
            same_values(found, wanted)


@variants
def test_a_call_leaves_nothing_on_the_modules(variant: str, vaes: dict[str, WanVAE]) -> None:
    vae = vaes[variant]
    before = [dict(module.__dict__) for module in vae.modules()]
    with torch.no_grad():
        vae.decode(vae.encode(clip(5)))
    assert [module.__dict__ for module in vae.modules()] == before


# Building and placing ----------------------------------------------------------------------------


@variants
def test_a_model_built_on_meta_is_complete_once_weights_are_assigned(
    variant: str, vaes: dict[str, WanVAE]
) -> None:
    vae = vaes[variant]
    with torch.device("meta"):
        empty = WanVAE(vae.config)
    empty.load_state_dict(vae.state_dict(), assign=True)
    with torch.no_grad():
        torch.testing.assert_close(empty.encode(clip(1)), vae.encode(clip(1)), rtol=0, atol=0)


@variants
def test_bfloat16_stays_bfloat16_and_near_float32(variant: str, vaes: dict[str, WanVAE]) -> None:
    vae = vaes[variant]
    half = WanVAE(vae.config)
    half.load_state_dict(vae.state_dict())
    half.to(torch.bfloat16)
    with torch.no_grad():
        expected = vae.encode(clip(5))
        z = half.encode(clip(5).bfloat16())
        pixels = half.decode(z)
    assert z.dtype == pixels.dtype == torch.bfloat16
    assert pixels.shape == clip(5).shape
    assert (z - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_strides_are_four_frames_and_eight_or_sixteen_pixels() -> None:
    assert WAN21.stride == tiny(WAN21).stride == (4, 8, 8)
    assert WAN22.stride == tiny(WAN22).stride == (4, 16, 16)
    assert (tiny(WAN21).latent_channels, tiny(WAN22).latent_channels) == (16, 48)


def test_unpatchify_undoes_patchify() -> None:
    pixels = clip(2, batch=2, height=4, width=6)
    assert patchify(pixels, 2).shape == (2, 12, 2, 2, 3)
    torch.testing.assert_close(unpatchify(patchify(pixels, 2), 2), pixels, rtol=0, atol=0)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((1, 3, 4, 32, 32), "found pixels with T = 4, H = 32, W = 32"),
        ((1, 3, 0, 32, 32), "found pixels with T = 0, H = 32, W = 32"),
        ((1, 3, 5, 24, 32), "found pixels with T = 5, H = 24, W = 32"),
        ((1, 3, 5, 32, 40), "found pixels with T = 5, H = 32, W = 40"),
        ((1, 4, 5, 32, 32), "found pixels of shape [1, 4, 5, 32, 32]"),
        ((3, 5, 32, 32), "found pixels of shape [3, 5, 32, 32]"),
    ],
)
def test_bad_pixels_name_found_and_expected(
    shape: tuple[int, ...], found: str, vaes: dict[str, WanVAE]
) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        vaes["wan22"].encode(torch.zeros(shape))
    assert str(caught.value) == (
        f"{found}; expected [B, 3, T, H, W] with T = 1 + 4k, "
        "H a multiple of 16 and W a multiple of 16"
    )


@pytest.mark.parametrize("shape", [(1, 48, 1, 2, 2), (16, 1, 2, 2), (1, 16, 0, 2, 2)])
def test_bad_latents_name_found_and_expected(
    shape: tuple[int, ...], vaes: dict[str, WanVAE]
) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        vaes["wan21"].decode(torch.zeros(shape))
    assert str(caught.value) == (
        f"found latents of shape {list(shape)}; expected [B, 16, t, h, w] with t >= 1"
    )


def test_a_shape_whose_fields_do_not_fit_is_refused() -> None:
    fields = {name: getattr(WAN21, name) for name in WAN21.__dataclass_fields__}
    with pytest.raises(ValueError, match="found 16 latents_mean and 16 latents_std for 48"):
        WanVAEShape(**{**fields, "latent_channels": 48})
    with pytest.raises(ValueError, match="found 3 temporal_downsample for 3 width_multipliers"):
        WanVAEShape(**{**fields, "width_multipliers": (1, 2, 4)})

"""The FLUX VAEs equal diffusers', take images one by one, and can read the original files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wamkit_flux import Flux1VAE, Flux2VAE
from wamkit_flux.vae import PUBLISHED, TINY, Flux1Autoencoder, Flux2Autoencoder, Sizes, fold, unfold

from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.testing.parity import (
    float64,
    gradients,
    randomize_parameters,
    same_gradients,
    same_values,
    to_float64,
)

CONFIGS: dict[str, Any] = {"flux1": Flux1VAE(width="tiny"), "flux2": Flux2VAE(width="tiny")}
CLASSES: dict[str, Any] = {"flux1": Flux1Autoencoder, "flux2": Flux2Autoencoder}
COUNTS = {"flux1": 83_819_683, "flux2": 84_046_115}
variants = pytest.mark.parametrize("variant", CONFIGS)


def reference(variant: str, sizes: Sizes) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own VAE")
    stages = len(sizes.widths)
    shared = {
        "down_block_types": ("DownEncoderBlock2D",) * stages,
        "up_block_types": ("UpDecoderBlock2D",) * stages,
        "block_out_channels": sizes.widths,
        "layers_per_block": sizes.depth,
        "norm_num_groups": sizes.groups,
    }
    if variant == "flux2":
        return diffusers.AutoencoderKLFlux2(**shared).eval()
    return diffusers.AutoencoderKL(
        **shared, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False
    ).eval()


def drawn(model: Any) -> Any:
    """Every parameter and statistic drawn, so that none is trivial; pixels stay in range."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        randomize_parameters(model).decoder.conv_out.weight.mul_(0.2)
        if hasattr(model, "bn"):
            model.bn.running_mean.copy_(torch.randn(128, generator=generator))
            # Variances near zero show the epsilon.
            model.bn.running_var.copy_(torch.rand(128, generator=generator) * 0.01)
    return model


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of diffusers' class as `ae.safetensors` has it."""
    out = {}
    for name, tensor in state.items():
        if re.search(r"attentions\.0\.to_(q|k|v|out\.0)\.weight", name):
            tensor = tensor[:, :, None, None].clone()
        for pattern, replacement in (
            (r"^quant_conv", "encoder.quant_conv"),
            (r"^post_quant_conv", "decoder.post_quant_conv"),
            (r"conv_norm_out", "norm_out"),
            (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0", "mid.attn_1"),
            (r"group_norm", "norm"),
            (r"to_out\.0", "proj_out"),
            (r"to_([qkv])", r"\1"),
            (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
            (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
            (r"upsamplers\.0", "upsample"),
            (r"(up_blocks\.\d)\.resnets", r"\1.block"),
            (r"conv_shortcut", "nin_shortcut"),
        ):
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{3 - int(match[1])}", name)
        out[name] = tensor
    return out


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return {name: drawn(reference(name, TINY)) for name in CONFIGS}


@pytest.fixture(scope="module")
def folders(
    references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    made = {}
    for name, model in references.items():
        made[name] = folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder / "diffusers" / "vae")
        (folder / "original").mkdir()
        save_file(original(model.state_dict()), folder / "original" / "ae.safetensors")
    return made


@pytest.fixture(scope="module")
def vaes(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: built(name, folders[name] / "diffusers") for name in CONFIGS}


def built(name: str, path: Path) -> Any:
    return CONFIGS[name].model_copy(update={"weights": str(path)}).build().eval()


def clip(frames: int, height: int = 32, width: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(2, 3, frames, height, width, generator=generator) * 2 - 1


def patchified(z: Tensor) -> Tensor:
    """`Flux2KleinPipeline._patchify_latents`."""
    n, c, h, w = z.shape
    return (
        z.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, -1, h // 2, w // 2)
    )


def statistics(model: Any) -> tuple[Tensor, Tensor]:
    mean = model.bn.running_mean.view(1, -1, 1, 1)
    return mean, torch.sqrt(model.bn.running_var.view(1, -1, 1, 1) + model.config.batch_norm_eps)


def reference_encode(model: Any, image: Tensor) -> Tensor:
    """Latents as the pipelines of diffusers normalize them."""
    z = model.encode(image).latent_dist.mode()
    if not hasattr(model, "bn"):
        return (z - 0.1159) * 0.3611
    mean, std = statistics(model)
    return (patchified(z) - mean) / std


def reference_decode(model: Any, z: Tensor) -> Tensor:
    if not hasattr(model, "bn"):
        return model.decode(z / 0.3611 + 0.1159).sample
    mean, std = statistics(model)
    n, c, h, w = z.shape
    z = (z * std + mean).reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return model.decode(z.reshape(n, c // 4, 2 * h, 2 * w)).sample


@variants
@pytest.mark.parametrize("layout", ["diffusers", "original"])
@torch.no_grad()
@float64()
def test_images_and_latents_equal_those_of_diffusers(
    variant: str, layout: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    vae, model, pixels = (
        to_float64(built(variant, folders[variant] / layout)),
        references[variant],
        clip(2),
    )
    z = vae.encode(pixels)
    out = vae.decode(z)
    assert (out.abs() < 1).float().mean() > 0.8, "the clamp hides what should be compared"
    for t in range(2):
        wanted = reference_encode(model, pixels[:, :, t])
        scale = float(wanted.abs().max())
        same_values(z[:, :, t] / scale, wanted / scale)
        same_values(out[:, :, t], reference_decode(model, z[:, :, t]).clamp(-1, 1))


@variants
@float64()
def test_gradients_equal_those_of_diffusers(
    variant: str, references: dict[str, Any], vaes: dict[str, Any]
) -> None:
    references, vaes = to_float64((references, vaes))
    vae, model = vaes[variant], references[variant]

    def through(net: Any, encode: Any, decode: Any) -> dict[str, Tensor]:
        return gradients(net, lambda pixels: decode(encode(pixels)).sin().mean(), pixels=clip(1))

    found = through(vae, vae.encode, vae.decode)
    wanted = through(
        model,
        lambda x: reference_encode(model, x[:, :, 0]),
        lambda z: reference_decode(model, z).clamp(-1, 1),
    )
    same_gradients(found, wanted)


@variants
def test_published_sizes_have_the_names_and_shapes_of_diffusers(variant: str) -> None:
    with torch.device("meta"):
        ours, theirs = CLASSES[variant](PUBLISHED), reference(variant, PUBLISHED)
    wanted = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    wanted.pop("bn.num_batches_tracked", None)
    assert {name: tuple(t.shape) for name, t in ours.state_dict().items()} == wanted
    assert parameters(ours) == COUNTS[variant]
    buffers = {name for name, _ in ours.named_buffers()}
    assert buffers == ({"bn.running_mean", "bn.running_var"} if variant == "flux2" else set())


@variants
@torch.no_grad()
@float64()
def test_an_image_knows_nothing_of_the_others(variant: str, vaes: dict[str, Any]) -> None:
    vaes = to_float64(vaes)
    vae, pixels = vaes[variant], clip(3)
    z = vae.encode(pixels)
    assert z.shape[2] == 3
    same_values(vae.encode(pixels[:, :, 1:2]), z[:, :, 1:2])


@variants
@torch.no_grad()
def test_bfloat16_stays_bfloat16_and_near_float32(
    variant: str, folders: dict[str, Path], vaes: dict[str, Any]
) -> None:
    half: Any = cast(built(variant, folders[variant] / "diffusers"), torch.bfloat16)
    wanted = vaes[variant].encode(clip(1))
    z = half.encode(clip(1).bfloat16())
    assert z.dtype == half.decode(z).dtype == torch.bfloat16
    assert (z - wanted).norm() < 0.05 * wanted.norm()
    if variant == "flux2":
        assert half.bn.running_var.dtype == torch.float32


def test_unfolding_undoes_folding() -> None:
    z = torch.randn(2, 5, 4, 6)
    assert torch.equal(fold(z), patchified(z))
    assert torch.equal(unfold(fold(z)), z)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((1, 3, 1, 24, 32), "found pixels with H = 24, W = 32"),
        ((1, 4, 1, 32, 32), "found pixels of shape [1, 4, 1, 32, 32]"),
        ((3, 1, 32, 32), "found pixels of shape [3, 1, 32, 32]"),
    ],
)
def test_bad_pixels_name_found_and_expected(
    shape: tuple[int, ...], found: str, vaes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        vaes["flux2"].encode(torch.zeros(shape))
    assert str(caught.value) == f"{found}; expected [B, 3, T, H, W], H a multiple of 16 and W of 16"


def test_bad_latents_name_found_and_expected(vaes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        vaes["flux2"].decode(torch.zeros(1, 32, 1, 2, 2))
    assert str(caught.value) == (
        "found latents of shape [1, 32, 1, 2, 2]; expected [B, 128, T, h, w]"
    )

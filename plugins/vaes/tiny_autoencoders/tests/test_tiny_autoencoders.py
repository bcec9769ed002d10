"""The tiny autoencoders equal the published classes, are causal, and keep the contract of a VAE."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from wamkit_tiny_autoencoders import TAEF1, TAELTX2, TAEW21, TAEW22
from wamkit_tiny_autoencoders.taef import TINY

from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.config.parts import VAEConfig
from wamkit.errors import WamkitError
from wamkit.testing import *  # noqa: F403
from wamkit.testing.parity import (
    float64,
    gradients,
    other_values,
    same_gradients,
    same_values,
    to_float64,
)

PARTS = [TAEW21(), TAEW22(), TAELTX2(), TAEF1()]
CONFIGS: dict[str, Any] = {part.name: part for part in PARTS}
VIDEO = [name for name in CONFIGS if name != "taef1"]
COUNTS = {"taew2.1": 11_315_539, "taew2.2": 11_418_108, "taeltx2": 11_759_728, "taef1": 2_458_899}
# Made by record.py next to it.
GOLDEN = Path(__file__).parent / "golden" / "taehv.safetensors"
CLIPS = {"taew2.1": (2, 9, 3, 16, 24), "taew2.2": (1, 9, 3, 32, 48), "taeltx2": (1, 9, 3, 32, 64)}
every = pytest.mark.parametrize("name", CONFIGS)
video = pytest.mark.parametrize("name", VIDEO)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weights of record.py: it is what their names make them."""
    draw = np.random.RandomState(crc32(name.encode())).standard_normal(shape)
    scale = {"encoder.17.weight": 15.0, "decoder.22.weight": 0.1}.get(name, 1.0)
    draw *= scale / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return torch.tensor(draw + (name == "decoder.22.bias") * 0.5, dtype=torch.float32)


def recorded_clip(name: str) -> Tensor:
    """The pixels of record.py, as [B, 3, T, H, W] in [-1, 1]."""
    draw = np.random.RandomState(crc32(name.encode())).random_sample(CLIPS[name])
    return torch.from_numpy(draw.astype(np.float32)).float().transpose(1, 2) * 2 - 1


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each video model with the recorded weights."""
    folder, made = tmp_path_factory.mktemp("taehv"), {}
    for name in VIDEO:
        with torch.device("meta"):
            model = CONFIGS[name].tiny().build()
        made[name] = folder / f"{name}.safetensors"
        state = {key: drawn(key, tuple(t.shape)) for key, t in model.state_dict().items()}
        save_file(state, made[name])
    return made


def built(config: VAEConfig, path: Path) -> Any:
    return config.tiny().model_copy(update={"weights": str(path)}).build().eval()


@pytest.fixture(scope="module")
def vaes(files: dict[str, Path]) -> dict[str, Any]:
    loaded = {name: built(CONFIGS[name], path) for name, path in files.items()}
    return {**loaded, "taef1": TAEF1(width="tiny").build().eval()}


# Against github.com/madebyollin/taehv ----------------------------------------------------------


@video
@torch.no_grad()
@float64()
def test_latents_and_images_are_the_recorded_ones(
    name: str, golden: dict[str, Tensor], vaes: dict[str, Any]
) -> None:
    vaes = to_float64(vaes)
    z = vaes[name].encode(recorded_clip(name))
    wanted = golden[f"{name}.latents"].transpose(1, 2)
    assert wanted.std() > 1
    same_values(z, wanted)
    images = (vaes[name].decode(z).transpose(1, 2) + 1) / 2
    wanted = golden[f"{name}.pixels"]
    assert wanted.std() > 0.05 and wanted.min() > 0 and wanted.max() < 1
    same_values(images.flatten()[::7], wanted)


@float64()
def test_gradients_are_the_recorded_ones(golden: dict[str, Tensor], vaes: dict[str, Any]) -> None:
    vaes = to_float64(vaes)
    vae = vaes["taew2.2"]

    def loss() -> Tensor:
        images = vae.decode(vae.encode(recorded_clip("taew2.2")))
        return ((images + 1) / 2).sin().sum()

    wanted = {k.removeprefix("gradients."): t for k, t in golden.items() if "gradients." in k}
    same_gradients(gradients(vae, loss), to_float64(wanted), error=1e-6)  # stored in float32


@every
def test_published_sizes_have_the_published_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        model = CONFIGS[name].build()
    shapes = {key: list(t.shape) for key, t in model.state_dict().items()}
    assert parameters(model) == COUNTS[name]
    assert not list(model.buffers())
    if name == "taef1":
        wanted = {key: list(t.shape) for key, t in reference(width=64).state_dict().items()}
    else:
        with safe_open(GOLDEN, "pt") as file:
            wanted = json.loads(file.metadata()[name])
    assert shapes == wanted


# Time ------------------------------------------------------------------------------------------


@video
@torch.no_grad()
@float64()
def test_later_images_change_no_earlier_latent(name: str, vaes: dict[str, Any]) -> None:
    vaes = to_float64(vaes)
    vae, t = vaes[name], CONFIGS[name].stride[0]
    clip = torch.rand(1, 3, 1 + 3 * t, *CONFIGS[name].stride[1:]) * 2 - 1
    z = vae.encode(clip)
    for latents in (1, 2, 3):
        some = vae.encode(clip[:, :, : 1 + (latents - 1) * t])
        same_values(some, z[:, :, :latents])
    other = clip.clone()
    other[:, :, 1 + t] *= -1
    changed = (vae.encode(other) - z).abs().amax((0, 1, 3, 4))
    assert (changed[:2] == 0).all() and (changed[2:] > 1e-4).all()  # memory, too, goes on


@video
@torch.no_grad()
@float64()
def test_later_latents_change_no_earlier_image(name: str, vaes: dict[str, Any]) -> None:
    vaes = to_float64(vaes)
    vae, t = vaes[name], CONFIGS[name].stride[0]
    z = torch.randn(1, CONFIGS[name].channels, 3, 2, 1)
    images = vae.decode(z)
    assert images.shape[2] == 1 + 2 * t
    for latents in (1, 2):
        some = vae.decode(z[:, :, :latents])
        wanted = images[:, :, : 1 + (latents - 1) * t]
        same_values(some, wanted)


@torch.no_grad()
@float64()
def test_the_first_image_fills_its_group(vaes: dict[str, Any]) -> None:
    # Grouped as the repository's encode_video does it, latent 0 would hold images 0 to 3.
    vaes = to_float64(vaes)
    clip = recorded_clip("taew2.1")
    other = clip.clone()
    other[:, :, 1:4] = 0
    one, two = vaes["taew2.1"].encode(clip), vaes["taew2.1"].encode(other)
    assert torch.equal(one[:, :, 0], two[:, :, 0])
    other_values(one[:, :, 1], two[:, :, 1], 0.1)


@every
@torch.no_grad()
@float64()
def test_clips_of_a_batch_know_nothing_of_each_other(name: str, vaes: dict[str, Any]) -> None:
    vaes = to_float64(vaes)
    vae, (t, height, width) = vaes[name], CONFIGS[name].stride
    clips = torch.rand(2, 3, 1 + 2 * t, height, 2 * width) * 2 - 1
    z = vae.encode(clips)
    images = vae.decode(z)
    same_values(vae.encode(clips[1:]), z[1:])
    same_values(vae.decode(z[1:]), images[1:])


@torch.no_grad()
@float64()
def test_an_image_knows_nothing_of_the_others(vaes: dict[str, Any]) -> None:
    vaes = to_float64(vaes)
    clip = torch.rand(1, 3, 3, 16, 8) * 2 - 1
    z = vaes["taef1"].encode(clip)
    assert z.shape == (1, 16, 3, 2, 1)
    alone = vaes["taef1"].encode(clip[:, :, 1:2])
    same_values(alone, z[:, :, 1:2])


# Against diffusers' AutoencoderTiny ------------------------------------------------------------


def reference(width: int) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers' own class")
    widths = (width,) * 4
    return diffusers.AutoencoderTiny(
        latent_channels=16, encoder_block_out_channels=widths, decoder_block_out_channels=widths
    ).eval()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """diffusers' class with weights drawn at random, and ours with the files it saved."""
    model, generator = reference(TINY), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            draw = torch.randn(p.shape, generator=generator)
            p.copy_(draw * (0.1 if p.ndim == 1 else p[0].numel() ** -0.5))
        model.encoder.layers[-1].weight.mul_(30)  # latents large enough to be squashed
        model.decoder.layers[-1].weight.mul_(0.1)  # images small enough not to be clamped
        model.decoder.layers[-1].bias.add_(0.5)
    folder = tmp_path_factory.mktemp("taef1")
    model.save_pretrained(folder)
    return model, built(TAEF1(), folder)


@torch.no_grad()
@float64()
def test_images_and_latents_equal_those_of_diffusers(image: tuple[Any, Any]) -> None:
    model, vae = to_float64(image)
    clip = torch.rand(2, 3, 2, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    z = vae.encode(clip)
    out = vae.decode(z)
    assert z.std() > 1 and (out.abs() < 1).float().mean() > 0.9
    for t in range(2):
        wanted = model.encode(clip[:, :, t]).latents
        same_values(z[:, :, t], wanted)
        wanted = model.decode(wanted).sample.clamp(-1, 1)
        same_values(out[:, :, t], wanted)


@float64()
def test_gradients_equal_those_of_diffusers(image: tuple[Any, Any]) -> None:
    model, vae = to_float64(image)
    clip = torch.rand(1, 3, 1, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1

    def through(net: Any, encode: Any, decode: Any) -> dict[str, Tensor]:
        def loss(pixels: Tensor) -> Tensor:
            return decode(encode(pixels)).clamp(-1, 1).sin().mean()

        return gradients(net, loss, pixels=clip)

    found = through(vae, vae.encode, vae.decode)
    wanted = through(
        model, lambda x: model.encode(x[:, :, 0]).latents, lambda z: model.decode(z).sample
    )
    same_gradients(found, wanted)


def test_latents_of_images_need_no_shift_or_scale_in_diffusers(image: tuple[Any, Any]) -> None:
    # FluxPipeline decodes latents / scaling_factor + shift_factor: with these, what it denoised.
    config = image[0].config
    assert (config.scaling_factor, config.shift_factor) == (1.0, 0.0)


# Files, numbers and messages -------------------------------------------------------------------


@torch.no_grad()
def test_it_reads_the_pickled_file_of_the_repository(
    files: dict[str, Path], vaes: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(load_file(files["taew2.1"]), tmp_path / "taew2_1.pth")
    with pytest.warns(UserWarning, match="is pickled"):
        again = built(TAEW21(), tmp_path / "taew2_1.pth")
    clip = recorded_clip("taew2.1")[:, :, :5]
    assert torch.equal(again.encode(clip), vaes["taew2.1"].encode(clip))


def test_weights_of_another_model_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(WamkitError, match=r"encoder\.0\.weight \[4, 3, 3, 3\] for \[4, 12, 3, 3\]"):
        built(TAEW22(), files["taew2.1"])
    with pytest.raises(WamkitError, match="is in no layout known here"):
        built(TAEF1(), files["taew2.1"])


@every
@torch.no_grad()
def test_bfloat16_stays_bfloat16_and_near_float32(
    name: str, vaes: dict[str, Any], tmp_path: Path
) -> None:
    t, height, width = CONFIGS[name].stride
    clip = torch.rand(1, 3, 1 + t, height, 2 * width) * 2 - 1
    save_file(vaes[name].state_dict(), tmp_path / "part.safetensors")
    half: Any = cast(built(CONFIGS[name], tmp_path / "part.safetensors"), torch.bfloat16)
    z, wanted = half.encode(clip.bfloat16()), vaes[name].encode(clip)
    assert z.dtype == half.decode(z).dtype == torch.bfloat16
    assert (z - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize(
    ("name", "shape", "found"),
    [
        ("taew2.2", (1, 3, 2, 16, 32), "pixels with T = 2, H = 16, W = 32"),
        ("taew2.2", (1, 3, 5, 8, 16), "pixels with T = 5, H = 8, W = 16"),
        ("taew2.2", (1, 3, 0, 16, 16), "pixels with T = 0, H = 16, W = 16"),
        ("taew2.2", (3, 1, 16, 16), "pixels of shape [3, 1, 16, 16]"),
        ("taef1", (1, 3, 1, 12, 16), "pixels with H = 12, W = 16"),
        ("taef1", (1, 4, 1, 16, 16), "pixels of shape [1, 4, 1, 16, 16]"),
    ],
)
def test_bad_pixels_name_found_and_expected(
    name: str, shape: tuple[int, ...], found: str, vaes: dict[str, Any]
) -> None:
    expected = {
        "taew2.2": "[B, 3, T, H, W] with T = 1 + 4k, H a multiple of 16 and W a multiple of 16",
        "taef1": "[B, 3, T, H, W], H and W multiples of 8",
    }
    with pytest.raises(ValueError, match="expected") as caught:
        vaes[name].encode(torch.zeros(shape))
    assert str(caught.value) == f"found {found}; expected {expected[name]}"


@every
def test_bad_latents_name_found_and_expected(name: str, vaes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        vaes[name].decode(torch.zeros(1, 4, 1, 2, 2))
    channels = CONFIGS[name].channels
    assert str(caught.value) == (
        f"found latents of shape [1, 4, 1, 2, 2]; expected [B, {channels}, T, h, w]"
    )

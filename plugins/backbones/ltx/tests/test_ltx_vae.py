"""LTX's VAEs: diffusers' results, normalized; every layout of their files; the same every time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wamkit_ltx import LTX2VAE, LTXVAE
from wamkit_ltx.vae_weights import DOWN, FIRST_DOWN, FIRST_UP, UP

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.config.spec import parse_part
from wamkit.testing.parity import float64, other_values, same_values, to_float64

diffusers = pytest.importorskip("diffusers", reason="the VAEs are diffusers' classes")

CONFIGS: dict[str, Any] = {
    "0.9.0": LTXVAE(variant="0.9.0"),
    "0.9.1": LTXVAE(variant="0.9.1"),
    "0.9.5": LTXVAE(variant="0.9.5"),
    "2.0": LTX2VAE(variant="2.0"),
    "2.3": LTX2VAE(variant="2.3"),
}
PUBLISHED = {
    "0.9.0": 419_193_649,
    "0.9.1": 934_976_434,
    "0.9.5": 1_246_913_522,
    "2.0": 1_222_479_601,
}
LISTS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "0.9.0": (FIRST_DOWN, FIRST_UP),
    "0.9.1": (FIRST_DOWN, UP),
    "0.9.5": (DOWN, UP),
    "2.0": (DOWN, UP),
    "2.3": (DOWN, UP),
}
variants = pytest.mark.parametrize("variant", CONFIGS)


def reference_of(config: Any) -> Any:
    name = "AutoencoderKLLTXVideo" if config.name == "ltx" else "AutoencoderKLLTX2Video"
    return getattr(diffusers, name)(**config.blocks).eval()


def original_name(variant: str, name: str) -> str:
    """The name in the files of github.com/Lightricks of a tensor that diffusers calls `name`."""
    for side, stages in zip(("encoder.down", "decoder.up"), LISTS[variant], strict=True):
        half, direction = side.split(".")
        for i, stage in sorted(enumerate(stages), key=lambda pair: -len(pair[1])):
            if name.startswith(f"{half}.{stage}."):
                rest = name.removeprefix(f"{half}.{stage}")
                name = f"{half}.{direction}_blocks.{i}{rest}"
                break
    for pattern, replacement in (
        (r"\.resnets\.", ".res_blocks."),
        (r"\.conv_shortcut\.conv\.", ".conv_shortcut."),
        (r"\.norm3\.", ".norm3.norm."),
        (r"^decoder\.time_embedder\.", "decoder.last_time_embedder."),
        (r"^decoder\.scale_shift_table$", "decoder.last_scale_shift_table"),
        (r"^latents_mean$", "per_channel_statistics.mean-of-means"),
        (r"^latents_std$", "per_channel_statistics.std-of-means"),
    ):
        name = re.sub(pattern, replacement, name)
    return f"vae.{name}"


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    """A tiny VAE of each variant whose every parameter and constant is drawn at random."""
    made = {}
    for variant, config in CONFIGS.items():
        made[variant] = model = reference_of(config.tiny())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                draw = torch.randn(p.shape, generator=generator)
                if name.endswith("scale_shift_table") or "per_channel_scale" in name:
                    p.copy_(0.3 * draw)
                elif p.ndim:
                    p.copy_(draw * (0.1 if p.ndim == 1 else p[0].numel() ** -0.5))
            model.decoder.conv_out.conv.weight.mul_(0.2)
            model.latents_mean.copy_(torch.randn(128, generator=generator))
            model.latents_std.copy_(0.5 + torch.rand(128, generator=generator))
    return made


@pytest.fixture(scope="module")
def folders(
    references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    made = {}
    for variant, model in references.items():
        made[variant] = folder = tmp_path_factory.mktemp("vae")
        model.save_pretrained(folder / "diffusers" / "vae")
        original = {original_name(variant, n): t for n, t in model.state_dict().items()}
        for other in (
            "vae.per_channel_statistics.channel",
            "vae.per_channel_statistics.mean-of-stds",
            "vae.per_channel_statistics.mean-of-stds_over_std-of-means",
            "model.diffusion_model.patchify_proj.weight",
        ):
            original[other] = torch.zeros(1)
        save_file(original, folder / "original.safetensors")
    return made


def built(variant: str, path: Path) -> Any:
    config = CONFIGS[variant].tiny().model_copy(update={"weights": str(path)})
    return config.build().eval()


def axes(constants: Tensor) -> Tensor:
    return constants.view(-1, 1, 1, 1)


@variants
@pytest.mark.parametrize("layout", ["diffusers", "original.safetensors"])
def test_weights_of_every_layout_are_those_of_the_reference(
    variant: str, layout: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    found = built(variant, folders[variant] / layout).state_dict()
    wanted = references[variant].state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@variants
@torch.no_grad()
@float64()
def test_latents_are_the_normalized_posterior_mean(
    variant: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    vae, model = to_float64(built(variant, folders[variant] / "diffusers")), references[variant]
    pixels = torch.rand(1, 3, 9, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    z = vae.encode(pixels)
    mean = model.encode(pixels).latent_dist.mode()
    assert z.shape == (1, 128, 2, 1, 2)
    wanted = (mean - axes(model.latents_mean)) / axes(model.latents_std)
    same_values(z, wanted)
    same_values(vae.encode(pixels[:, :, :1]), z[:, :, :1])


@variants
@torch.no_grad()
@float64()
def test_decoding_equals_diffusers_and_is_the_same_every_time(
    variant: str, references: dict[str, Any], folders: dict[str, Path]
) -> None:
    references = to_float64(references)
    vae, model = to_float64(built(variant, folders[variant] / "diffusers")), references[variant]
    z = torch.randn(1, 128, 2, 2, 3, generator=torch.Generator().manual_seed(2))
    state = torch.random.get_rng_state()
    found, again = vae.decode(z), vae.decode(z)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(found, again) and found.shape == (1, 3, 9, 64, 96)
    level = torch.tensor([0.05]) if variant in ("0.9.1", "0.9.5") else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        full = model.decode(z * axes(model.latents_std) + axes(model.latents_mean), level).sample
    assert (full.abs() < 1).float().mean() > 0.8, "the clamp hides what should be compared"
    same_values(found, full.clamp(-1, 1))


@torch.no_grad()
@float64()
def test_the_level_given_to_the_decoder_matters(folders: dict[str, Path]) -> None:
    z = torch.randn(1, 128, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    path = str(folders["0.9.5"] / "diffusers")
    tiny = LTXVAE(variant="0.9.5", weights=path, width="tiny")
    other = tiny.model_copy(update={"decode_sigma": 0.5})
    other_values(to_float64(tiny.build()).decode(z), to_float64(other.build()).decode(z))


def test_a_level_for_a_decoder_without_one_is_refused() -> None:
    with pytest.raises(WamkitError, match=r"whose decoder is given no noise level; leave it out"):
        parse_part("vae", {"name": "ltx", "variant": "0.9.0", "decode_sigma": 0.1})


@torch.no_grad()
def test_it_runs_in_bfloat16(folders: dict[str, Path]) -> None:
    vae: Any = cast(built("0.9.1", folders["0.9.1"] / "diffusers"), torch.bfloat16)
    z = vae.encode(torch.zeros(1, 3, 1, 32, 32, dtype=torch.bfloat16))
    assert vae.decode(z).dtype == torch.bfloat16


def test_a_decoder_that_reflects_at_its_edges_refuses_what_has_none(
    folders: dict[str, Path],
) -> None:
    with pytest.raises(
        ValueError, match=r"found latents of 1 x 3; .* at least 2 x 2, .* 64 pixels"
    ):
        built("2.0", folders["2.0"] / "diffusers").decode(torch.zeros(1, 128, 1, 1, 3))


@variants
def test_published_sizes_are_built_without_memory(variant: str) -> None:
    with torch.device("meta"):
        vae = CONFIGS[variant].build()
    assert all(t.is_meta for t in vae.state_dict().values())
    assert variant not in PUBLISHED or parameters(vae) == PUBLISHED[variant]
    assert (vae.channels, vae.stride) == (CONFIGS[variant].channels, CONFIGS[variant].stride)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_original_names_become_those_of_diffusers_own_converter(variant: str) -> None:
    from diffusers.loaders import single_file_utils as utils

    convert = utils.convert_ltx_vae_checkpoint_to_diffusers
    if variant == "2.0":
        convert = utils.convert_ltx2_vae_to_diffusers
    with torch.device("meta"):
        state = reference_of(CONFIGS[variant]).state_dict()  # it looks at a shape to tell variants
    names = {original_name(variant, n): n for n in state}
    converted = convert({old: state[new] for old, new in names.items()})
    assert set(converted) == set(names.values())
    assert all(converted[new] is state[new] for new in converted)


@pytest.mark.parametrize(("variant", "other"), [("0.9.0", "0.9.5"), ("2.3", "2.0")])
def test_files_of_another_variant_are_refused(
    variant: str, other: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(WamkitError, match="do not fit this model") as caught:
        built(other, folders[variant] / "diffusers")
    assert "check the variant" in caught.value.hint


def test_a_configuration_that_differs_where_weights_do_not_show_it_is_a_conflict(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for variant, folder in folders.items():
        config = CONFIGS[variant].model_copy(update={"weights": str(folder / "diffusers")})
        assert list(config.conflicts(spec=None)) == []
    file = folders["0.9.5"] / "diffusers" / "vae" / "config.json"
    changed = file.read_text().replace('"decoder_causal": false', '"decoder_causal": true')
    (tmp_path / "config.json").write_text(changed)
    (conflict,) = LTXVAE(weights=str(tmp_path)).conflicts(spec=None)  # type: ignore[arg-type]
    assert conflict.why == (
        f"{tmp_path / 'config.json'} is not that of variant 0.9.5 (found for expected): "
        "decoder_causal = True for False"
    )

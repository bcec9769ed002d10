"""The keys of the original Wan VAE files become those of diffusers, one to one."""

import re

import pytest
from wamkit_wan.vae import WAN21, WAN22, WanVAE, tiny
from wamkit_wan.vae_weights import (
    ORIGINAL_21,
    ORIGINAL_22,
    SENTINEL_DIFFUSERS,
    SENTINEL_ORIGINAL,
)

TABLES = {"wan21": ORIGINAL_21, "wan22": ORIGINAL_22}
variants = pytest.mark.parametrize("variant", ["wan21", "wan22"])
BLOCK = [
    *("residual.0.gamma", "residual.2.weight", "residual.2.bias"),
    *("residual.3.gamma", "residual.6.weight", "residual.6.bias"),
]
ATTENTION = ["norm.gamma", "to_qkv.weight", "to_qkv.bias", "proj.weight", "proj.bias"]
CONVOLUTION = ["weight", "bias"]


@pytest.fixture(scope="module")
def vaes() -> dict[str, WanVAE]:
    """A tiny VAE of each variant."""
    return {"wan21": WanVAE(tiny(WAN21)), "wan22": WanVAE(tiny(WAN22))}


def original_keys(variant: str) -> list[str]:
    """The keys of the original file, from the module tree of the original code."""
    keys = under("conv1", CONVOLUTION) + under("conv2", CONVOLUTION)
    for side in ("encoder", "decoder"):
        keys += under(f"{side}.conv1", CONVOLUTION)
        keys += under(f"{side}.middle.0", BLOCK) + under(f"{side}.middle.2", BLOCK)
        keys += under(f"{side}.middle.1", ATTENTION)
        keys += [f"{side}.head.0.gamma", *under(f"{side}.head.2", CONVOLUTION)]
    return (
        keys + stage_keys("encoder.downsamples", variant) + stage_keys("decoder.upsamples", variant)
    )


def stage_keys(prefix: str, variant: str) -> list[str]:
    encoder = prefix.startswith("encoder")
    blocks = 2 if encoder else 3
    over_time = {1, 2} if encoder else {0, 1}
    widened = {
        ("wan21", True): {1, 2},
        ("wan21", False): {1},
        ("wan22", True): {1, 2},
        ("wan22", False): {2, 3},
    }[variant, encoder]
    keys = []
    for stage in range(4):
        for i in range(blocks + (stage < 3)):
            if variant == "wan21":
                name = f"{prefix}.{stage * (blocks + 1) + i}"
            else:
                name = f"{prefix}.{stage}.{prefix.split('.')[1]}.{i}"
            if i == blocks:
                keys += under(f"{name}.resample.1", CONVOLUTION)
                keys += under(f"{name}.time_conv", CONVOLUTION) if stage in over_time else []
            else:
                keys += under(name, BLOCK)
                if i == 0 and stage in widened:
                    keys += under(f"{name}.shortcut", CONVOLUTION)
    return keys


def under(prefix: str, leaves: list[str]) -> list[str]:
    return [f"{prefix}.{leaf}" for leaf in leaves]


def renamed(key: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key


@variants
def test_renaming_the_original_keys_is_a_bijection_onto_ours(
    variant: str, vaes: dict[str, WanVAE]
) -> None:
    originals = original_keys(variant)
    found = [renamed(key, TABLES[variant]) for key in originals]
    assert len(set(originals)) == len(originals) == len(set(found))
    assert set(found) == set(vaes[variant].state_dict())


@pytest.mark.parametrize(
    ("variant", "original", "ours"),
    [
        ("wan21", "encoder.downsamples.5.time_conv.bias", "encoder.down_blocks.5.time_conv.bias"),
        (
            "wan21",
            "encoder.downsamples.10.residual.6.weight",
            "encoder.down_blocks.10.conv2.weight",
        ),
        (
            "wan21",
            "decoder.upsamples.11.resample.1.bias",
            "decoder.up_blocks.2.upsamplers.0.resample.1.bias",
        ),
        ("wan22", "decoder.head.2.bias", "decoder.conv_out.bias"),
        (
            "wan22",
            "encoder.downsamples.1.downsamples.2.time_conv.weight",
            "encoder.down_blocks.1.downsampler.time_conv.weight",
        ),
        (
            "wan22",
            "decoder.upsamples.3.upsamples.0.residual.3.gamma",
            "decoder.up_blocks.3.resnets.0.norm2.gamma",
        ),
    ],
)
def test_known_original_keys_get_their_known_names(variant: str, original: str, ours: str) -> None:
    assert renamed(original, TABLES[variant]) == ours


@variants
def test_renaming_leaves_the_diffusers_layout_alone(variant: str, vaes: dict[str, WanVAE]) -> None:
    keys = list(vaes[variant].state_dict())
    assert [renamed(key, TABLES[variant]) for key in keys] == keys


@variants
def test_detection_keys_distinguish_the_layouts(variant: str, vaes: dict[str, WanVAE]) -> None:
    original, ours = original_keys(variant), vaes[variant].state_dict()
    assert SENTINEL_ORIGINAL in original and SENTINEL_ORIGINAL not in ours
    assert SENTINEL_DIFFUSERS in ours and SENTINEL_DIFFUSERS not in original

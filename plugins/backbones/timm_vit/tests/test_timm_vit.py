"""A vision transformer equals timm's own, reads its files, and gives a policy something to see."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from wamkit_timm_vit import SIZES, TimmViT, Variant
from wamkit_timm_vit.backbone import PIXELS

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import parameters
from wamkit.config.check import check
from wamkit.config.spec import PolicySpec, parse, parse_part
from wamkit.config.visibility import Visibility
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import denoise
from wamkit.interfaces.streams import embed_video, pass_video
from wamkit.interfaces.types import Frames, Text, counted
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, observation
from wamkit.testing.parity import float64, other_values, same_values, to_float64, unused_modules

TEXT = Text(torch.zeros(2, 3, 64))
PUBLISHED = [variant for variant in get_args(Variant) if variant != "tiny"]
# What timm's functions give to their class, at toy sizes.
TINY: dict[str, dict[str, Any]] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2}  # type: ignore[dict-item]
OURS = {"layers": 3, "num_heads": 2, "head_dim": 12, "mlp_dim": 48}
REFERENCES: dict[str, Any] = {
    "vit_base_patch14_dinov2": partial(
        VisionTransformer, img_size=56, patch_size=14, init_values=1e-5, num_classes=0
    ),
    "vit_base_patch14_reg4_dinov2": partial(
        VisionTransformer, img_size=56, patch_size=14, init_values=1e-5, reg_tokens=4,
        no_embed_class=True, num_classes=0,
    ),
    "vit_base_patch16_dinov3": partial(
        Eva, patch_size=16, qkv_bias=False, init_values=1e-5, rope_type="dinov3",
        rope_temperature=100, use_rot_pos_emb=True, use_abs_pos_emb=False, rope_rotate_half=True,
        num_reg_tokens=4, use_fc_norm=False, num_classes=0,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    ),
    "vit_base_patch16_224.mae": partial(
        VisionTransformer, img_size=64, patch_size=16, num_classes=0
    ),
    "vit_base_patch16_224": partial(VisionTransformer, img_size=64, patch_size=16, num_classes=7),
    "vit_so400m_patch16_siglip_256": partial(
        VisionTransformer, img_size=64, patch_size=16, class_token=False, global_pool="map",
        act_layer="gelu_tanh", num_classes=0,
    ),
}  # fmt: skip
PERIODS = 1e-6  # timm keeps periods of rotary positions in float32
variants = pytest.mark.parametrize("variant", REFERENCES)


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    """timm's classes with every parameter drawn at random."""
    rng, found = torch.Generator().manual_seed(0), {}
    for variant, make in REFERENCES.items():
        model = make(**TINY, dynamic_img_size=True).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=rng) * (0.3 if p.ndim == 1 else 0.15))
                if p.ndim == 1:
                    p.add_(0.5)
        found[variant] = model
    return found


@pytest.fixture(scope="module")
def folders(
    references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The references' weights as timm publishes them."""
    root = tmp_path_factory.mktemp("timm")
    for variant, model in references.items():
        (root / variant).mkdir()
        save_file(model.state_dict(), root / variant / "model.safetensors")
    return {variant: root / variant for variant in references}


def config(variant: str, **changes: Any) -> TimmViT:
    grid = 4 if SIZES[variant]["grid"] else 0
    table = {"variant": variant, **OURS, "grid": grid, **changes}
    return TimmViT.model_validate(table)


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Any]:
    return {v: config(v, weights=str(f)).build().eval() for v, f in folders.items()}


def images(frames: int, rows: int, columns: int, patch: int) -> Tensor:
    """Pixels [2, 3, T, height, width] in [-1, 1]."""
    rng = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, frames, rows * patch, columns * patch, generator=rng) * 2 - 1


def latents(pixels: Tensor, patch: int) -> Tensor:
    """What the VAE makes of them: [2, 3 * patch * patch, T, h, w]."""
    vae = parse_part("vae", {"name": "pixel_shuffle", "strides": [1, patch, patch]})
    return vae.build().encode(pixels)  # type: ignore[attr-defined, no-any-return]


def frames_of(z: Tensor) -> Frames:
    count = z.shape[2]
    return Frames(z, ("context",) * count, counted(count), torch.zeros(2, count))


def seen(backbone: Any, frames: Tensor | Frames, sees: Visibility | None = None) -> Tensor:
    """Tokens [2, S, D] behind the last block; by default everything attends to everything."""
    runner = PassRunner()
    clip = frames_of(frames) if isinstance(frames, Tensor) else frames
    return pass_video(runner, backbone, embed_video(runner, backbone, clip, TEXT), sees)


def features(reference: Any, pixels: Tensor, variant: str) -> Tensor:
    """timm's own `forward_features` of one image, normalized as its configuration says."""
    mean, std = (torch.tensor(x)[:, None, None] for x in PIXELS[SIZES[variant]["pixels"]])
    return reference.forward_features(((pixels[:, :, 0] + 1) / 2 - mean) / std)  # type: ignore[no-any-return]


# Equal to timm -----------------------------------------------------------------------------------


@variants
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@float64()
def test_tokens_and_gradients_equal_timm(
    variant: str, size: tuple[int, int], references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    reference, backbone = references[variant], backbones[variant]
    patch = backbone.config.patch_size
    ours, theirs = (images(1, *size, patch).requires_grad_() for _ in range(2))
    found = reference.norm(seen(backbone, latents(ours, patch)))  # the norm that no block holds
    expected = features(reference, theirs, variant)
    same_values(found, expected, PERIODS)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    for model in (reference, backbone):
        model.zero_grad()
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    _gradients_close(ours.grad, theirs.grad)
    wanted = {n.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): p.grad
              for n, p in reference.named_parameters()}  # fmt: skip
    for name, parameter in backbone.named_parameters():
        _gradients_close(parameter.grad, wanted[name])


def _gradients_close(found: Tensor, expected: Tensor) -> None:
    same_values(found, expected, PERIODS, scale=max(float(expected.abs().max()), 1e-6))


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes_are_those_of_timm(variant: str) -> None:
    part = TimmViT.model_validate({"variant": variant})
    with torch.device("meta"):
        ours, theirs = part.build(), timm.create_model(variant)
    gone = ("norm.", "head.", "fc_norm.", "attn_pool.")
    wanted = {
        name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): tuple(p.shape)
        for name, p in theirs.state_dict().items()
        if not name.startswith(gone)
    }
    assert {name: tuple(p.shape) for name, p in ours.state_dict().items()} == wanted
    block, cfg = theirs.blocks[0], theirs.pretrained_cfg
    assert part.num_heads == block.attn.num_heads and part.norm_eps == block.norm1.eps
    assert (cfg["mean"], cfg["std"]) == PIXELS[part.pixels]
    exact = isinstance(block.mlp.act, torch.nn.GELU)
    assert part.activation == ("gelu" if exact else "gelu_tanh")
    assert part.traits.frame_tokens == theirs.num_prefix_tokens
    assert parameters(ours) > 2e7


@float64()
def test_several_images_that_do_not_see_each_other_are_encoded_as_if_alone(
    references: dict[str, Any], backbones: dict[str, Any]
) -> None:
    references, backbones = to_float64((references, backbones))
    variant = "vit_base_patch16_dinov3"
    backbone, clip = backbones[variant], images(2, 3, 5, 16)
    frames = Frames(latents(clip, 16), ("context", "context.1"), counted(2), torch.zeros(2, 2))
    with torch.no_grad():
        apart = seen(backbone, frames, {"context": {"context"}, "context.1": {"context.1"}})
        for i, tokens in enumerate(apart.chunk(2, 1)):
            alone = features(references[variant], clip[:, :, i : i + 1], variant)
            same_values(references[variant].norm(tokens), alone, PERIODS)
        together = seen(backbone, frames.z)
    other_values(together, apart)


# Files -------------------------------------------------------------------------------------------


def test_what_follows_the_blocks_is_left_out_and_nothing_else(
    references: dict[str, Any], tmp_path: Path
) -> None:
    state = references["vit_base_patch16_224"].state_dict()
    assert {"head.weight", "norm.weight"} <= set(state)
    del state["blocks.1.mlp.fc2.bias"]
    save_file({**state, "surprise": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WamkitError) as caught:
        config("vit_base_patch16_224", weights=str(tmp_path)).build()
    assert "1 missing: blocks.1.mlp.fc2.bias" in caught.value.what
    assert "1 unexpected: surprise" in caught.value.what


def test_weights_of_another_grid_are_refused(folders: dict[str, Path]) -> None:
    variant = "vit_base_patch16_224.mae"
    with pytest.raises(WamkitError, match=r"pos_embed \[1, 17, 24\] for \[1, 26, 24\]"):
        config(variant, grid=5, weights=str(folders[variant])).build()


def test_every_linear_layer_is_called_as_a_module(backbones: dict[str, Any]) -> None:
    backbone = backbones["vit_base_patch14_dinov2"]
    assert not unused_modules(backbone, lambda: seen(backbone, latents(images(1, 4, 4, 14), 14)))


# In a policy -------------------------------------------------------------------------------------


def table(variant: str = "tiny", **backbone: Any) -> dict[str, Any]:
    patch = SIZES[variant]["patch_size"]
    return {
        "backbone": {"name": "timm_vit", "variant": variant, "text_width": 16, **backbone},
        "vae": {"name": "pixel_shuffle", "strides": [1, patch, patch]},
        "text_encoder": {"name": "bytes"},
        "action_head": {"name": "mot", "width": 32, "mlp_dim": 64},
        "paradigm": {"name": "single_pass"},
        "actions": {"chunk_size": 6, "groups": [{"name": "arm", "size": 4}]},
        "state": {"size": 3},
        "cameras": {"views": [{"name": "front", "size": (2 * patch, 3 * patch)}]},
        "video": {"num_frames": 1, "num_observed": 1},
        "schedules": {"action": {"steps": 3}},
    }


def reasons(raw: dict[str, Any]) -> list[str]:
    return [conflict.why for conflict in check(raw)]


def spec(**changes: Any) -> PolicySpec:
    return parse({**table(), **changes})


def test_a_policy_on_it_acts_and_trains_it() -> None:
    policy = Policy.from_spec(spec())
    one, two = (policy.act(observation(spec(), seed=i), seed=0).values for i in (0, 1))
    assert one.shape == (2, 6, 4) and not torch.equal(one, two)
    policy.train().loss(batch_of(spec()), seed=0).total.backward()
    grads = {n: p.grad for n, p in policy.backbone.named_parameters()}  # type: ignore[attr-defined]
    assert all(g is not None and g.abs().max() > 0 for n, g in grads.items() if "blocks.2" not in n)


def test_the_instruction_reaches_the_policy_through_the_head() -> None:
    policy, seen = Policy.from_spec(spec()), observation(spec())
    with torch.no_grad():
        one = policy.act(seen, seed=0).values
        other = replace(seen, prompt=("something else entirely",) * 2)
        two = policy.act(other, seed=0).values
    assert not torch.equal(one, two)


def test_a_head_that_reads_no_text_either_is_refused() -> None:
    raw = table()
    raw["action_head"]["text"] = "none"
    assert "timm_vit reads no text, nor does mot: the instruction would change nothing" in reasons(
        raw
    )


def test_another_way_to_cut_images_is_refused_with_the_strides_to_write() -> None:
    raw = table("vit_base_patch16_224")
    raw["vae"]["strides"] = [4, 8, 8]  # as many channels, in another order
    (conflict,) = check(raw)
    assert conflict.why == (
        "vit_base_patch16_224 looks at patches of 16 x 16 pixels, and pixel_shuffle with strides "
        "[4, 8, 8] does not cut images into them"
    )
    assert conflict.hint == 'set vae.name = "pixel_shuffle" and vae.strides = [1, 16, 16]'


def test_it_reports_that_it_cannot_imagine(backbones: dict[str, Any]) -> None:
    raw = table()
    raw["video"] = {"num_frames": 2, "num_observed": 1}
    assert "timm_vit only encodes images; it cannot imagine 1 images" in reasons(raw)
    backbone = backbones["vit_base_patch14_dinov2"]
    frames = frames_of(latents(images(1, 4, 4, 14), 14))
    with pytest.raises(WamkitError, match="it predicts no velocity"):
        denoise(backbone, frames, TEXT)


def test_learned_positions_need_a_grid() -> None:
    with pytest.raises(WamkitError, match="learned positions need the grid they belong to"):
        parse_part("backbone", {"name": "timm_vit", "grid": 0})


@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_tiny_form_takes_the_same_pixels_and_tokens(variant: str) -> None:
    part = TimmViT.model_validate({"variant": variant})
    large, tiny = part.traits, part.tiny().traits
    assert tiny.latent_channels == large.latent_channels
    assert tiny.frame_tokens == large.frame_tokens
    assert parameters(part.tiny().build()) < 100_000
    assert tiny.tokens(2, 16, 16) == 2 * (256 + large.frame_tokens)

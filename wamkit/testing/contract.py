"""Contract tests that a plugin runs on its own parts with one import.

    # tests/test_contract.py of a plugin
    from my_plugin import MyBackbone
    from wamkit.testing import *

    PARTS = [MyBackbone()]

Every part, and each of its `variations`, is tried at its tiny size, among companions that fit it.
Without PARTS, every registered part of a policy is tried; for environments see
`wamkit.testing.environment`. The checks themselves are plain functions and may be called one by
one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import safetensors as weights
from ..config.part_rules import imports_torch, schema_fault
from ..config.parts import KINDS, BackboneConfig, Part
from ..config.registry import registry
from ..config.spec import PolicySpec
from ..config.visibility import Visibility
from ..engine.attention import attention
from ..engine.passes import PassRunner
from ..errors import WamkitError
from ..interfaces import denoise
from ..interfaces.streams import embed_video, embed_videos, text_level
from ..interfaces.types import Frames, ModelInputs, Text
from .backbone_contract import STACK
from .fixtures import (
    compose,
    default,
    predict_frames,
    random_frames,
    randomize_weights,
    run_dense,
)
from .parity import other_values, same_values, unused_modules
from .policy_contract import POLICY
from .prefix_contract import PREFIX

__all__ = ["pytest_generate_tests", "test_contract"]

CLIP: Visibility = {
    "text": {"text", "context"},
    "context": {"text", "context"},
    "target": {"text", "context", "target"},
    "action": {"text", "context", "action"},
}


def pytest_generate_tests(metafunc: Any) -> None:
    """One test for each check of each part in the module's PARTS."""
    if "contract_check" not in metafunc.fixturenames:
        return
    parts = getattr(metafunc.module, "PARTS", None) or [
        default(cls) for cls in registry() if cls.kind in KINDS
    ]
    parts = [every for part in parts for every in (part, *part.variations())]
    cases = [(fn, part) for part in parts for fn in (*CHECKS[part.kind], *CHECKS["policy"])]
    ids = [f"{_label(part)}: {fn.__name__.replace('_', ' ')}" for fn, part in cases]
    metafunc.parametrize(("contract_check", "contract_part"), cases, ids=ids)


def _label(part: Part) -> str:
    """The part, and what of it is not as it is by default."""
    changed = part.model_dump(exclude_defaults=True, exclude={"name"})
    given = {key: value for key, value in changed.items() if isinstance(value, str)}
    return " ".join([part.kind, part.name, *(f"{k}={v}" for k, v in given.items())])


def test_contract(contract_check: Callable[..., None], contract_part: Part, tmp_path: Path) -> None:
    """A part fulfills the contract of its kind."""
    torch.manual_seed(0)
    contract_check(_spec_around(contract_part), tmp_path)


_SPECS: dict[tuple[type[Part], str], PolicySpec] = {}


def _spec_around(part: Part) -> PolicySpec:
    """The spec that all checks of a part share: companions that fit may be many tries away."""
    key = type(part), part.model_dump_json()
    if key not in _SPECS:
        _SPECS[key] = compose(part)
    return _SPECS[key]


# Backbones ------------------------------------------------------------------------------------


def _inputs(spec: PolicySpec) -> tuple[Frames, Text]:
    return random_frames(spec.backbone.traits, spec.latent_size)


def _backbone(spec: PolicySpec) -> Any:
    return randomize_weights(spec.backbone.build()).eval()


@torch.no_grad()
def states_its_traits_truly(spec: PolicySpec, tmp: Path) -> None:
    """Traits, known without weights, agree with the module."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    t = spec.backbone.traits
    assert model.traits == t and len(model.blocks) == t.depth
    passing = embed_video(PassRunner(), model, video, text)
    for stream in passing.streams:
        b, length, width = stream.tokens.shape
        assert (b, width) == (2, t.width)
        assert length == sum(s.length for s in stream.segments)
        rows = stream.modulation.gather(stream.level_index)[0]  # type: ignore[union-attr]
        qkv, _ = stream.blocks[0].pre_attention(stream.tokens, rows, stream.rotary)
        assert qkv.q.shape == (2, t.num_heads, length, t.head_dim)
        assert qkv.k.shape == qkv.v.shape == (2, t.num_kv_heads, length, t.head_dim)
    assert passing.frames.tokens.shape[1] == t.tokens(3, *spec.latent_size)
    assert (passing.text is not None) == (t.text == "stream")
    expected = video.z.shape if t.imagines else passing.frames.tokens.shape
    assert predict_frames(model, video, text).shape == expected


def imagines_or_says_that_it_cannot(spec: PolicySpec, tmp: Path) -> None:
    """A backbone without a velocity raises an error if asked for one."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    try:
        assert denoise(model, video, text).isfinite().all()
    except WamkitError:
        assert not model.traits.imagines
    else:
        assert model.traits.imagines


@torch.no_grad()
def attends_role_by_role_as_under_a_dense_mask(spec: PolicySpec, tmp: Path) -> None:
    """Choosing keys equals masking them."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    if model.attend is not attention:
        return
    runner = PassRunner()
    streams = embed_video(runner, model, video, text).streams
    found, _ = runner.run(streams, CLIP)
    same_values(found, run_dense(streams, CLIP))


@torch.no_grad()
def gives_the_same_numbers_from_a_cache(spec: PolicySpec, tmp: Path) -> None:
    """What attends to nothing else can be computed once; the rest attends to the same keys."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    sees, runner = _without_words(spec), PassRunner()
    full = predict_frames(model, video, text, sees)
    follows = model.traits.text_follows
    seen = embed_video(runner, model, video.only("context"), text)
    keep = ("context",) if follows else ("text", "context")
    _, cache = runner.run(seen.streams, sees, attend=model.attend, keep=keep, prefill=True)
    targets = video.only("target")
    level = text_level(model, ModelInputs(text, targets))
    for _ in range(2):  # the second step rewrites the first one's keys in place
        rest = embed_video(
            runner, model, targets, text, text_level=level, with_text="text" not in cache.roles
        )
        found, _ = runner.run(rest.streams, sees, attend=model.attend, cache=cache)
        if model.traits.imagines:
            same_values(model.final_layer(found[-1], rest.modulation, rest.clip), full[:, :, 1:])
        else:
            same_values(found[-1], full[:, -found[-1].shape[1] :])


def _without_words(spec: PolicySpec) -> Visibility:
    """CLIP, except that the context does not see text at the level of the target."""
    follows = spec.backbone.traits.text_follows
    return {**CLIP, "context": {"context"}} if follows else CLIP


@torch.no_grad()
def gives_words_the_noise_level_it_states(spec: PolicySpec, tmp: Path) -> None:
    """Text tokens in the stream have the level in `Traits.text_level`."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    if model.traits.text != "stream" or not model.traits.imagines:
        return

    def text_tokens(frames: Frames) -> Tensor:
        video = embed_videos(PassRunner(), model, ModelInputs(text, frames))["video"]
        stream = video.text
        assert stream is not None
        rows = stream.modulation.gather(stream.level_index)[0]  # type: ignore[union-attr]
        return stream.blocks[0].pre_attention(stream.tokens, rows, stream.rotary)[0].k  # type: ignore[no-any-return]

    one, two = text_tokens(video), text_tokens(video.at(0.25, "target"))
    clean, alone = text_tokens(video.at(0.0, "target")), text_tokens(video.only("context"))
    same_values(alone, clean)  # a pass without target frames has text at level 0
    if spec.backbone.traits.text_follows:
        other_values(one, two, 1e-4)
        other_values(one, clean, 1e-4)
    else:
        same_values(one, clean)
        same_values(two, clean)


@torch.no_grad()
def keeps_noise_levels_to_their_frames(spec: PolicySpec, tmp: Path) -> None:
    """A frame that sees only itself does not feel the noise level of another."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    if not (spec.backbone.traits.sigma_per_frame and spec.backbone.traits.imagines):
        return
    sees = _without_words(spec)
    one = denoise(model, video, text, sees)
    two = denoise(model, video.at(0.25, "target"), text, sees)
    same_values(one[:, :, :1], two[:, :, :1])
    other_values(one[:, :, 1:], two[:, :, 1:])  # the noise level does change its own frames


@torch.no_grad()
def hides_padding_of_the_text(spec: PolicySpec, tmp: Path) -> None:
    """Masked text tokens change nothing; valid ones do, if the backbone reads text."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    one = predict_frames(model, video, text)
    hidden, seen = text.tokens.clone(), text.tokens.clone()
    hidden[0, 3:] += 1
    seen[0, :3] += 1
    same_values(predict_frames(model, video, replace(text, tokens=hidden)), one)
    other = predict_frames(model, video, replace(text, tokens=seen))
    if model.traits.text == "none":
        assert torch.equal(other, one)
    else:
        other_values(other, one)


def passes_gradients_to_every_weight(spec: PolicySpec, tmp: Path) -> None:
    """The prediction depends on each parameter, except those listed as `silent`.

    A model may carry `silent`, regular expressions for weights that published files hold and no
    velocity depends on, such as those for the last text tokens.
    """
    model, (video, text) = _backbone(spec), _inputs(spec)
    predict_frames(model, video, text).square().mean().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # Keys that never matter: a bias added to all keys of a head cancels in the softmax.
    dead = [n for n in dead if not n.endswith(("to_k.bias", "k_proj.bias"))]
    dead = [n for n in dead if not any(re.search(p, n) for p in getattr(model, "silent", ()))]
    assert not dead, f"no gradient reaches {', '.join(dead)}"


@torch.no_grad()
def calls_every_linear_layer_as_a_module(spec: PolicySpec, tmp: Path) -> None:
    """Adapters of low rank and quantized layers stand in for modules, and must be noticed."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    assert not (left := unused_modules(model, lambda: predict_frames(model, video, text))), left


def survives_saving_and_loading(spec: PolicySpec, tmp: Path) -> None:
    """Weights written and read through the part's own loader are the same, bit for bit."""
    model = _backbone(spec)
    weights.save(model, tmp / "part.safetensors")
    again = spec.backbone.model_copy(update={"weights": str(tmp / "part.safetensors")}).build()
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    video, text = _inputs(spec)
    assert torch.equal(
        predict_frames(model, video, text), predict_frames(again.eval(), video, text)
    )


def builds_without_memory(spec: PolicySpec, tmp: Path) -> None:
    """On the meta device it has the same weights, by name and shape."""
    with torch.device("meta"):
        model = spec.backbone.build()
    assert all(t.is_meta for t in model.state_dict().values())
    real = spec.backbone.build().state_dict()
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in real.items()
    }


@torch.no_grad()
def runs_in_bfloat16(spec: PolicySpec, tmp: Path) -> None:
    """Half the bytes, nearly the same values; noise levels stay float32."""
    model, (video, text) = _backbone(spec), _inputs(spec)
    full = predict_frames(model, video, text)
    weights.cast(model, torch.bfloat16)
    half = predict_frames(model, video, text).float()
    error = (half - full).norm() / full.norm()
    assert error < 0.05, f"relative error {error:.3f}"


# VAEs -----------------------------------------------------------------------------------------


def _clip(spec: PolicySpec, latents: int = 3) -> Tensor:
    (t, h, w), rng = spec.vae.stride, torch.Generator().manual_seed(3)
    shape = (2, 3, 1 + (latents - 1) * t, 2 * h, 3 * w)
    return torch.rand(shape, generator=rng) * 2 - 1


@torch.no_grad()
def has_the_shapes_it_states(spec: PolicySpec, tmp: Path) -> None:
    """Channels and stride, known without weights, are those of the latents."""
    vae, clip = spec.vae.build().eval(), _clip(spec)
    assert (vae.channels, tuple(vae.stride)) == (spec.vae.channels, tuple(spec.vae.stride))
    z = vae.encode(clip)
    assert z.shape == (2, spec.vae.channels, 3, 2, 3)
    out = vae.decode(z)
    assert out.shape == clip.shape and out.abs().max() <= 1 + 1e-6


@torch.no_grad()
def encodes_the_first_image_by_itself(spec: PolicySpec, tmp: Path) -> None:
    """The first latent is the first image's alone, and later images do not change it."""
    vae, clip = spec.vae.build().eval(), _clip(spec)
    z = vae.encode(clip)
    same_values(vae.encode(clip[:, :, :1]), z[:, :, :1])


def refuses_images_that_do_not_divide(spec: PolicySpec, tmp: Path) -> None:
    """Sizes that are no multiple of the stride are a ValueError, not a wrong result."""
    vae, (t, h, w) = spec.vae.build().eval(), spec.vae.stride
    wrong = [(2, 3, 1, h + 1, w)] if h > 1 else []
    wrong += [(2, 3, 2, h, w)] if t > 1 else []
    for shape in wrong:
        try:
            vae.encode(torch.zeros(shape))
        except ValueError:
            continue
        raise AssertionError(f"images of shape {shape} were accepted")


# Text encoders --------------------------------------------------------------------------------


@torch.no_grad()
def encodes_prompts_alike_alone_and_together(spec: PolicySpec, tmp: Path) -> None:
    """Other prompts of a batch change nothing, and the width is as stated."""
    encoder = spec.text_encoder.build().eval()
    both = encoder.encode(["pick up the cup", "go"])
    alone = encoder.encode(["go"])
    assert both.tokens.shape[0] == 2 and both.tokens.shape[2] == spec.text_encoder.width
    assert both.tokens.shape[1] <= spec.text_encoder.max_tokens
    n = alone.tokens.shape[1] if alone.valid is None else int(alone.valid[0].sum())
    same_values(both.tokens[1, :n], alone.tokens[0, :n])
    if both.valid is not None:
        assert int(both.valid[1].sum()) == n


def keeps_its_fingerprint(spec: PolicySpec, tmp: Path) -> None:
    """Two builds of one configuration share cached embeddings."""
    marks = []
    for _ in range(2):
        torch.manual_seed(0)
        marks.append(spec.text_encoder.build().fingerprint())
    assert marks[0] == marks[1]


def _of_backbone(check: Callable[[BackboneConfig], None]) -> Callable[[PolicySpec, Path], None]:
    """A check of a configuration as one of a spec."""

    @wraps(check)
    def run(spec: PolicySpec, tmp: Path) -> None:
        check(spec.backbone)

    return run


def is_listed_without_torch(spec: PolicySpec, tmp: Path) -> None:
    """Importing a plugin loads no torch, and each of its parts can be described in JSON."""
    packages = {plugin.package for plugin in registry().plugins}
    for kind in KINDS:
        cls = type(getattr(spec, kind))
        package = cls.__module__.partition(".")[0]
        assert package not in packages or not imports_torch(package), f"{package} imports torch"
        assert not schema_fault(cls), schema_fault(cls)


CHECKS: dict[str, Sequence[Callable[[PolicySpec, Path], None]]] = {
    "backbone": (
        states_its_traits_truly,
        imagines_or_says_that_it_cannot,
        attends_role_by_role_as_under_a_dense_mask,
        gives_the_same_numbers_from_a_cache,
        gives_words_the_noise_level_it_states,
        keeps_noise_levels_to_their_frames,
        hides_padding_of_the_text,
        passes_gradients_to_every_weight,
        calls_every_linear_layer_as_a_module,
        survives_saving_and_loading,
        builds_without_memory,
        runs_in_bfloat16,
        *map(_of_backbone, STACK),
    ),
    "vae": (
        has_the_shapes_it_states,
        encodes_the_first_image_by_itself,
        refuses_images_that_do_not_divide,
    ),
    "text_encoder": (encodes_prompts_alike_alone_and_together, keeps_its_fingerprint),
    "action_head": PREFIX,
    "paradigm": PREFIX,
    "policy": (is_listed_without_torch, *POLICY),
}

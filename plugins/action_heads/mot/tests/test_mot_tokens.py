"""What passes as a token, at which level and time, with the actions or cached before them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_mot import Mot
from wamkit_mot.blocks import embed_sinusoid

from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.config.registry import registry
from wamkit.engine.layers import latent_times
from wamkit.engine.levels import CLEAN
from wamkit.interfaces.types import ModelInputs, NoisyVectors, TokenGroup, counted
from wamkit.testing.fixtures import full_inputs, randomize_weights, run_head, spec_with
from wamkit.testing.parity import float64, other_values, same_values

OWN: list[dict[str, Any]] = [
    {"state": "token"},
    {"state": "noisy_token", "registers": 2, "positions": "sinusoid", "encoder_layers": 3},
    {"state": "token", "registers": 2, "decoder": "adaln", "text": "none", "bias": False},
    {"positions": "none"},
]
COPIED: list[dict[str, Any]] = [
    {"block": "backbone", "state": "token", "positions": "grid", "registers": 2},
    {"block": "backbone", "state": "noisy_token", "decoder": "adaln"},
    {"block": "backbone", "state": "token", "positions": "sinusoid"},
]
BACKBONES = [
    name
    for name, cls in registry().parts["backbone"].items()
    if cls().traits.experts  # type: ignore[call-arg, attr-defined]
]
PREDICTS = ("action", "next_state", "value")
SEEN = {"text", "context", "state"}
SEES = {
    "text": {"text", "context"},
    "context": {"text", "context"},
    "target": {"text", "context", "target"},
    "state": {"text", "context", "state"},
    **{part: SEEN | {"action", "next_state", "value"} for part in PREDICTS},
    "action.0": SEEN | {"action.0"},
    "action.1": SEEN | {"action.1", "action.0"},
}


def parts(backbone: str = "wan", **settings: Any) -> tuple[Any, Any, ModelInputs]:
    """A tiny backbone and head, every weight redrawn, and inputs with all that is predicted."""
    torch.manual_seed(0)
    spec = spec_with(backbone=backbone)
    sizes = spec.sizes.model_copy(update={"predicts": PREDICTS})
    model = spec.backbone.build().eval()
    head = Mot(**({"width": 32, "mlp_dim": 48} | settings)).build(sizes)
    randomize_weights(torch.nn.ModuleList([model, head]))
    return model, head, full_inputs(spec)


def close(found: Tensor, expected: Tensor) -> None:
    same_values(found, expected)


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        *(("wan", settings) for settings in [*OWN, *COPIED]),
        ("flux2", OWN[0]),
        *((name, COPIED[0]) for name in BACKBONES if name != "wan"),
    ],
)
def test_every_weight_learns(backbone: str, settings: dict[str, Any]) -> None:
    model, head, inputs = parts(backbone, **settings)
    out = run_head(head, model, inputs, SEES)
    sum(getattr(out, part).square().mean() for part in PREDICTS).backward()
    dead = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    silent = getattr(head.expert, "silent", ())
    assert [
        n for n in dead if not n.endswith("to_k.bias") and not any(s in n for s in silent)
    ] == []


@pytest.mark.parametrize("settings", [*OWN, *COPIED])
@torch.no_grad()
@float64()
def test_a_cache_gives_the_same_values(settings: dict[str, Any]) -> None:
    model, head, inputs = parts(**settings)
    full = run_head(head, model, inputs, SEES)
    known = inputs.without(*PREDICTS)
    cache = run_head(head, model, known, SEES, keep=("text", "context", "state")).cache
    assert ("state" in cache.roles) == (settings.get("state") == "token")
    for _ in range(2):  # the second step rewrites the first one's keys in place
        step = run_head(head, model, inputs.with_(video=None), SEES, cache)
        for part in PREDICTS:
            close(getattr(step, part), getattr(full, part))


@pytest.mark.parametrize("settings", [*OWN, *COPIED])
@torch.no_grad()
@float64()
def test_chunks_pass_together_as_one_by_one(settings: dict[str, Any]) -> None:
    model, head, inputs = parts(**settings)
    inputs, n = inputs.without("next_state", "value"), 6
    x, sigma = torch.randn(2, 2 * n, 4), torch.tensor([[0.0] * n + [0.7] * n] * 2)
    roles, times = ("action.0",) * n + ("action.1",) * n, counted(2 * n)
    whole = inputs.with_(action=NoisyVectors(x, sigma, roles, times))
    both = run_head(head, model, whole, SEES).action

    def chunk(i: int) -> ModelInputs:
        at = slice(i * n, (i + 1) * n)
        return inputs.with_(action=NoisyVectors(x[:, at], sigma[:, at], roles[at], times[at]))

    one = run_head(head, model, chunk(0), SEES, keep=("text", "context", "state", "action.0"))
    assert one.action is None  # all that is there is kept, so the pass is a prefill
    close(run_head(head, model, chunk(0), SEES).action, both[:, :n])
    two = run_head(head, model, chunk(1).with_(video=None), SEES, one.cache)
    close(two.action, both[:, n:])


@torch.no_grad()
def test_two_chunks_of_one_role_have_registers_each() -> None:
    model, head, inputs = parts(registers=2)
    action = NoisyVectors(torch.randn(2, 12, 4), torch.zeros(2, 12))
    groups = head.token_groups(inputs.without(*PREDICTS).with_(action=action), ())
    assert [(group.modality, group.roles) for group in groups] == [
        ("action", ("action",) * 12),
        ("registers", ("action",) * 2),
        ("registers", ("action",) * 2),
    ]
    assert [group.times for group in groups[1:]] == [(6.0, 7.0), (12.0, 13.0)]
    found = run_head(head, model, inputs.with_(action=action), SEES).action
    assert found is not None and found.shape == action.x.shape


@torch.no_grad()
@float64()
def test_a_level_is_that_of_its_tokens_alone() -> None:
    model, head, inputs = parts(state="token", registers=1, decoder="adaln")
    apart = {**SEES, **{part: SEEN | {part} for part in PREDICTS}}
    one = run_head(head, model, inputs, apart)
    louder = NoisyVectors(inputs.noisy("value").x, torch.tensor([0.4, 0.4]))
    two = run_head(head, model, inputs.with_(value=louder), apart)
    close(two.action, one.action)
    close(two.next_state, one.next_state)
    other_values(two.value, one.value, 0.0001)


@torch.no_grad()
@float64()
def test_levels_of_single_steps_equal_one_level_for_all() -> None:
    model, head, inputs = parts(registers=1, state="noisy_token", decoder="adaln")
    action = inputs.noisy("action")
    each = NoisyVectors(action.x, action.sigma.expand(-1, 6).contiguous())
    close(
        run_head(head, model, inputs.with_(action=each), SEES).action,
        run_head(head, model, inputs, SEES).action,
    )


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ({}, True),
        ({"positions": "sinusoid"}, True),
        ({"positions": "none"}, False),
        ({"block": "backbone"}, True),
        ({"block": "backbone", "positions": "grid"}, True),
        ({"block": "backbone", "positions": "rows"}, True),
        ({"block": "backbone", "positions": "none"}, False),
    ],
)
@torch.no_grad()
def test_actions_depend_on_their_order_unless_set_not_to(
    settings: dict[str, Any], moves: bool
) -> None:
    model, head, inputs = parts(state="text", **settings)
    action = inputs.noisy("action")
    turned = NoisyVectors(action.x.flip(1), action.sigma)
    one = run_head(head, model, inputs, SEES).action
    two = run_head(head, model, inputs.with_(action=turned), SEES).action.flip(1)
    (other_values if moves else same_values)(one, two)


@float64()
def test_the_sinusoid_counts_from_the_state_and_has_its_sines_first() -> None:
    _, head, _ = parts(positions="sinusoid", width=8)
    group = TokenGroup("action", None, CLEAN, ("action",) * 3, (-1.0, 0.0, 2.0))
    wave = head.embed_times([group], torch.device("cpu"))
    angle = torch.tensor([0.0, 1, 3])[:, None] / 10_000 ** (torch.arange(4) / 4)
    close(wave, torch.cat([angle.sin(), angle.cos()], -1))
    assert list(head.token_times([group])) == [0] * 3
    assert head.embed_positions(torch.zeros(3, 3, dtype=torch.float64)) is None


@torch.no_grad()
@float64()
def test_times_that_change_are_not_cached() -> None:
    model, head, inputs = parts()
    action = inputs.noisy("action")
    later = NoisyVectors(action.x, action.sigma, times=tuple(3 * time for time in counted(6)))
    first = run_head(head, model, inputs, SEES).action
    moved = run_head(head, model, inputs.with_(action=later), SEES).action
    other_values(first, moved, 0.0001)
    close(run_head(head, model, inputs, SEES).action, first)


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [("wan", OWN[2]), *((name, COPIED[1]) for name in BACKBONES)],
)
@torch.no_grad()
def test_it_runs_in_bfloat16(backbone: str, settings: dict[str, Any]) -> None:
    model, head, inputs = parts(backbone, **settings)
    full = run_head(head, model, inputs, SEES).action
    for module in (model, head):
        cast(module, torch.bfloat16)
    half = run_head(head, model, replace(inputs, text=replace(inputs.text)), SEES).action
    assert half.dtype == torch.bfloat16 and (half - full).norm() / full.norm() < 0.1


def test_actions_stand_between_the_frames_they_lead_to() -> None:
    # LingBot-VA: K actions of frame f at f + k / (K + 1); here 4 actions a frame, 1 frame observed.
    places = [-1.0, 0, 1, 3, 4, 7, 8]
    found = latent_times(places, chunk=8, frames=(1, 2))
    assert found == pytest.approx([0.8, 1.2, 1.4, 1.8, 2.2, 2.8, 3.2])
    uneven = latent_times(range(5), chunk=5, frames=(1, 2))  # 3 to a frame, then 2
    assert uneven == pytest.approx([1.25, 1.5, 1.75, 2.25, 2.5])
    nothing = latent_times(range(3), chunk=3, frames=(2, 0))
    assert nothing == pytest.approx([2.25, 2.5, 2.75])


@torch.no_grad()
@float64()
def test_rows_stand_in_an_image_of_their_own() -> None:
    _, head, _ = parts("flux2", block="backbone", positions="rows", plane=3)
    group = TokenGroup("action", None, CLEAN, ("action",) * 3, (-1.0, 0.0, 2.0))
    found = head.token_positions([group], torch.device("cpu"))
    assert found.tolist() == [[3, -1, 0], [3, 0, 0], [3, 2, 0]]


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [("wan", {}), ("flux2", {"block": "backbone"}), ("flux1", {"block": "backbone"})],
)
@torch.no_grad()
@float64()
def test_the_modulated_decoder_reads_the_level_of_the_blocks(
    backbone: str, settings: dict[str, Any]
) -> None:
    model, head, inputs = parts(backbone, decoder="modulated", state="none", **settings)
    names = dict(head.named_parameters())
    assert not any(name.startswith("level_embedder") for name in names)
    assert not any("decoder" in name and name.endswith("bias") for name in names)
    sigmas, tokens = torch.tensor([0.2, 0.7]), torch.randn(2, 6, head.config.width)
    rows = head.embed_levels(sigmas)
    assert rows.shape == (2, len(head.sizes.predicts), 2, head.config.width)
    embedder = head.condition_embedder
    if embedder is None:
        level = head.expert.embed_level(sigmas)
    else:
        level = embed_sinusoid(embedder.time_embedder, sigmas)
    decoder = head.action_decoder
    shift, scale = decoder.level_proj(torch.nn.functional.silu(level)).chunk(2, -1)
    normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    expected = decoder.proj_out((1 + scale[:, None]) * normed + shift[:, None])
    close(head.decode_tokens("action", tokens, rows[:, None]), expected)
    noisy = inputs.noisy("action")
    other = inputs.with_(action=NoisyVectors(noisy.x, noisy.sigma / 2))
    one, two = (run_head(head, model, x, SEES).action for x in (inputs, other))
    other_values(one, two, 1e-4)


def test_the_adaptive_decoder_begins_with_zeros() -> None:
    spec = spec_with(backbone="toy")
    head = Mot(width=32, mlp_dim=48, decoder="adaln").build(spec.sizes)
    assert not head.action_decoder.proj_out.weight.any()
    assert not head.action_decoder.proj_out.bias.any()


def test_the_expert_of_efficient_wam_has_its_published_size() -> None:
    wan: Any = registry().parts["backbone"]["wan"]()  # type: ignore[call-arg]
    spec = spec_with(backbone="wan")
    small = wan.resized([0, 1, 3, 5, 7, 10, 13, 16, 19, 22, 25, 29], 16, 8192)
    sizes = spec.sizes.model_copy(
        update={"backbone": small, "action": 14, "state": 14, "chunk": 16, "predicts": ("action",)}
    )
    config = Mot(
        width=768,
        mlp_dim=3072,
        state="noisy_token",
        registers=4,
        text="none",
        positions="sinusoid",
        bias=False,
        encoder_layers=3,
        decoder="adaln",
    )
    with torch.device("meta"):
        head = config.build(sizes)
    d, inner, ffn = 768, 2048, 3072
    block = 4 * d * inner + 2 * inner + (2 * d * ffn + ffn + d) + 6 * d
    levels = (256 * d + d) + (d * d + d) + (d * 6 * d + 6 * d)
    encoder = (14 * d + d) + 2 * (d * d + d)
    decoder = 2 * d + 14 * d + 14
    assert parameters(head) == 12 * block + levels + 2 * encoder + 4 * d + decoder == 139_003_406
    assert config.tokens(sizes) == {"action": 1 + 16 + 4}

"""Actions as tokens of any backbone: levels, positions, text, robots, and what is cached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_shared_stream import SharedStream

from wamkit import check
from wamkit.checkpoints.safetensors import cast, save
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.engine.layers import latent_times
from wamkit.engine.levels import CLEAN
from wamkit.interfaces.types import ModelInputs, NoisyVectors, Text, TokenGroup, counted
from wamkit.testing.fixtures import (
    full_inputs,
    randomize_weights,
    run_head,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import float64, other_values, same_values

BACKBONES = registry().names("backbone")
SETTINGS: list[dict[str, Any]] = [
    {},
    {"embedder": "linear", "positions": "after"},
    {"positions": "index", "text": "stream", "embodiments": 2, "embodiment": 1},
    {"positions": "sinusoid", "state": "none"},
]
PREDICTS = ("action", "next_state", "value")
SEEN = {"text", "context", "state"}
SEES = {
    "text": {"text", "context"},
    "context": {"text", "context"},
    "target": {"text", "context", "target"},
    "state": SEEN,
    **{part: SEEN | set(PREDICTS) for part in PREDICTS},
    "action.0": SEEN | {"action.0"},
    "action.1": SEEN | {"action.1", "action.0"},
}


def spec_for(backbone: str, **settings: Any) -> PolicySpec:
    """A tiny spec around a backbone and a head with `settings`."""
    spec = spec_with(backbone=backbone)
    return spec.model_copy(update={"action_head": SharedStream(**settings)}).fitted()


def parts(backbone: str = "wan", **settings: Any) -> tuple[Any, Any, ModelInputs]:
    """A tiny backbone and head, every weight redrawn, and inputs with all that is predicted."""
    torch.manual_seed(0)
    spec = spec_for(backbone, **settings)
    model = spec.backbone.build().eval()
    head = spec.action_head.build(spec.sizes.model_copy(update={"predicts": PREDICTS}))
    randomize_weights(torch.nn.ModuleList([model, head]))
    return model, head, full_inputs(spec)


def close(found: Tensor, expected: Tensor) -> None:
    same_values(found, expected)


CASES = [*((name, {}) for name in BACKBONES), *(("wan", settings) for settings in SETTINGS[1:])]


@pytest.mark.parametrize(("backbone", "settings"), CASES)
def test_every_weight_of_the_head_and_of_the_blocks_learns(
    backbone: str, settings: dict[str, Any]
) -> None:
    model, head, inputs = parts(backbone, **settings)
    out = run_head(head, model, inputs, SEES)
    assert (out.action.shape, out.next_state.shape, out.value.shape) == (
        (2, 6, 4),
        (2, 1, 3),
        (2, 1, 1),
    )
    sum(getattr(out, part).square().mean() for part in PREDICTS).backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
    first = next(iter(model.blocks[0].parameters()))
    assert first.grad is not None and first.grad.any()


@pytest.mark.parametrize(("backbone", "settings"), CASES)
@torch.no_grad()
@float64()
def test_a_cache_gives_the_same_values(backbone: str, settings: dict[str, Any]) -> None:
    model, head, inputs = parts(backbone, **settings)
    full = run_head(head, model, inputs, SEES)
    known = inputs.without(*PREDICTS)
    cache = run_head(head, model, known, SEES, keep=("text", "context", "state")).cache
    assert ("state" in cache.roles) == (settings.get("state") != "none")
    for _ in range(2):  # the second step rewrites the first one's keys in place
        step = run_head(head, model, inputs.with_(video=None), SEES, cache)
        for part in PREDICTS:
            close(getattr(step, part), getattr(full, part))


@pytest.mark.parametrize(("backbone", "settings"), CASES)
@torch.no_grad()
@float64()
def test_chunks_pass_together_as_one_by_one(backbone: str, settings: dict[str, Any]) -> None:
    model, head, inputs = parts(backbone, **settings)
    inputs, n = inputs.without("next_state", "value"), 6
    x, sigma = torch.randn(2, 2 * n, 4), torch.tensor([[0.0] * n + [0.7] * n] * 2)
    roles, times = ("action.0",) * n + ("action.1",) * n, counted(2 * n)
    both = run_head(
        head, model, inputs.with_(action=NoisyVectors(x, sigma, roles, times)), SEES
    ).action

    def chunk(i: int) -> ModelInputs:
        at = slice(i * n, (i + 1) * n)
        return inputs.with_(action=NoisyVectors(x[:, at], sigma[:, at], roles[at], times[at]))

    one = run_head(head, model, chunk(0), SEES, keep=("text", "context", "state", "action.0"))
    close(run_head(head, model, chunk(0), SEES).action, both[:, :n])
    two = run_head(head, model, chunk(1).with_(video=None), SEES, one.cache)
    close(two.action, both[:, n:])


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
@float64()
def test_actions_depend_on_their_order_their_level_and_the_prompt(backbone: str) -> None:
    model, head, inputs = parts(backbone)
    action = inputs.noisy("action")

    def act(**changes: Any) -> Tensor:
        found = run_head(head, model, inputs.with_(**changes), SEES).action
        assert isinstance(found, Tensor)
        return found

    one = act()
    turned = act(action=NoisyVectors(action.x.flip(1), action.sigma)).flip(1)
    louder = act(action=NoisyVectors(action.x, action.sigma + 0.2))
    text = inputs.text
    other_text = act(text=Text(text.tokens.flip(0), text.valid, text.cond_embeds))
    for other in (turned, louder, other_text):
        other_values(one, other, 0.0001)
    hidden = text.tokens.clone()
    hidden[0, 3:] += 1  # padding
    close(act(text=Text(hidden, text.valid, text.cond_embeds)), one)


@pytest.mark.parametrize(("backbone", "settings"), CASES)
@torch.no_grad()
def test_it_runs_in_bfloat16(backbone: str, settings: dict[str, Any]) -> None:
    model, head, inputs = parts(backbone, **settings)
    full = run_head(head, model, inputs, SEES).action
    for module in (model, head):
        cast(module, torch.bfloat16)
    half = run_head(head, model, replace(inputs, text=replace(inputs.text)), SEES).action
    assert half.dtype == torch.bfloat16 and (half - full).norm() / full.norm() < 0.1


@torch.no_grad()
@float64()
def test_a_level_is_that_of_its_tokens_alone() -> None:
    model, head, inputs = parts()
    apart = {**SEES, **{part: SEEN | {part} for part in PREDICTS}}
    one = run_head(head, model, inputs, apart)
    louder = NoisyVectors(inputs.noisy("value").x, torch.tensor([0.4, 0.4]))
    two = run_head(head, model, inputs.with_(value=louder), apart)
    close(two.action, one.action)
    close(two.next_state, one.next_state)
    other_values(two.value, one.value, 0.0001)


@pytest.mark.parametrize(
    ("positions", "times"),
    [
        ("grid", list(latent_times(range(-1, 8), 6, (1, 2)))),
        ("index", [float(i) for i in range(-1, 8)]),
        ("after", [float(i) for i in range(3, 12)]),
        ("sinusoid", [0.0] * 9),
    ],
)
def test_tokens_have_the_configured_positions(positions: str, times: list[float]) -> None:
    _, head, _ = parts(positions=positions)
    assert head.sizes.frames == (1, 2)
    places = tuple(float(i) for i in range(-1, 8))
    group = TokenGroup("action", None, CLEAN, ("action",) * 9, places)
    assert head.token_times([group]) == pytest.approx(times)
    added = head.embed_times([group], torch.device("cpu"))
    assert (added is None) == (positions != "sinusoid")


@torch.no_grad()
def test_text_tokens_stand_at_the_beginning_and_take_no_sinusoid() -> None:
    _, head, inputs = parts(positions="sinusoid", text="stream")
    groups = head.token_groups(inputs, ())
    assert [group.modality for group in groups] == ["text", "state", *PREDICTS]
    assert groups[0].level == CLEAN and groups[0].mask is inputs.text.mask
    added = head.embed_times(groups, torch.device("cpu"))
    assert not added[:5].any() and added[5:].any(1).all()
    assert set(head.token_times(groups)[:5]) == {0.0}
    assert [g.modality for g in head.token_groups(inputs, ("text", "state"))] == list(PREDICTS)


@torch.no_grad()
@float64()
def test_a_robot_has_weights_of_its_own() -> None:
    model, head, inputs = parts(embodiments=2, embodiment=1)
    one = run_head(head, model, inputs, SEES).action
    for p in (head.action_embedder.W1.weight, head.action_decoder.out.layer2.bias):
        p[0] += 1
    assert torch.equal(run_head(head, model, inputs, SEES).action, one)
    head.action_decoder.out.layer2.bias[1] += 1
    close(run_head(head, model, inputs, SEES).action, one + 1)


def test_a_backbone_without_time_and_text_gets_both() -> None:
    fitted = spec_for("timm_vit").action_head
    assert isinstance(fitted, SharedStream)
    assert (fitted.positions, fitted.text, fitted.reads_text) == ("sinusoid", "stream", True)
    fitted = spec_for("wan").action_head
    assert isinstance(fitted, SharedStream)
    assert (fitted.positions, fitted.text, fitted.reads_text) == ("grid", "backbone", False)


@pytest.mark.parametrize(
    ("backbone", "settings", "message", "hint"),
    [
        (
            "wan",
            {"embodiment": 2},
            "action_head.embodiment + action_head.embodiments: embodiment 2 of 1, counted from 0\n"
            "    hint: set action_head.embodiments = 3 or more",
            {"embodiments": 3},
        ),
        (
            "wan",
            {"state": "none"},
            "action_head.state + state.size: the policy is given a state of 3 values that nothing "
            'reads\n    hint: set action_head.state = "token", or state.size = 0',
            {"state": "token"},
        ),
        (
            "wan",
            {"embedder": "linear", "hidden_width": 8, "sine_first": True},
            "action_head.hidden_width + action_head.sine_first + action_head.embedder: a linear "
            "embedder has one layer, and reads no noise level\n    hint: leave "
            "action_head.hidden_width and action_head.sine_first out, or set "
            'action_head.embedder = "mlp_sinusoid"',
            {"embedder": "mlp_sinusoid"},
        ),
        (
            "flux2",
            {"text": "stream"},
            "action_head.text + backbone: the backbone has text tokens in its stream already\n"
            '    hint: set action_head.text = "backbone"',
            {"text": "backbone"},
        ),
        (
            "timm_vit",
            {"embedder": "linear"},
            "action_head.embedder + backbone: the backbone's blocks read no noise level, and "
            'neither does a linear embedder\n    hint: set action_head.embedder = "mlp_sinusoid"',
            {"embedder": "mlp_sinusoid"},
        ),
        (
            "timm_vit",
            {"positions": "grid"},
            "action_head.positions + backbone: the backbone's blocks know no time, so that actions "
            'would have no order\n    hint: set action_head.positions = "sinusoid"',
            {"positions": "sinusoid"},
        ),
    ],
)
def test_a_conflict_has_a_hint(
    backbone: str, settings: dict[str, Any], message: str, hint: dict[str, Any]
) -> None:
    found = check(spec_for(backbone, **settings))
    assert [str(c) for c in found if "action_head." in " ".join(c.between)] == [message]
    assert check(spec_for(backbone, **(settings | hint))) == []


def test_slots_of_a_state_that_is_not_there_are_refused() -> None:
    spec = with_overrides(spec_for("wan"), "state.size=0")
    assert check(spec) == []
    (found,) = check(with_overrides(spec, "action_head.state_slots=8"))
    assert found.between == ("action_head.state_slots", "state.size")
    assert found.hint == "leave action_head.state_slots out"


def test_a_file_of_its_own_is_read_through_its_configuration(tmp_path: Path) -> None:
    spec = spec_for("wan", embodiments=2)
    head = spec.action_head.build(spec.sizes)
    save(head, tmp_path / "head.safetensors")
    config = spec.action_head.model_copy(update={"weights": str(tmp_path / "head.safetensors")})
    ours, theirs = head.state_dict(), config.build(spec.sizes).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

"""The reading transformer: what its blocks attend to, and what is computed once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from wamkit_reader import Reader

from wamkit import check
from wamkit.config.spec import PolicySpec
from wamkit.engine.kv_cache import KVCache
from wamkit.interfaces.types import Frames, ModelInputs, NoisyVectors, Text, counted
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import batch_of, observation, randomize_weights, run_head, spec_with
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

SMALL: dict[str, Any] = {"num_heads": 2, "head_dim": 8, "mlp_dim": 24, "rank": 4}
READS = ("each", "one", "last", "all")


def spec_for(
    backbone: str = "toy",
    paradigm: str = "single_pass",
    /,
    depth: int | None = None,
    **settings: Any,
) -> PolicySpec:
    """A tiny spec with this head, whose small sizes `settings` may overrule."""
    spec = spec_with(backbone=backbone, paradigm=paradigm)
    if depth is not None:
        spec = spec.model_copy(
            update={"backbone": spec.backbone.model_copy(update={"depth": depth})}
        )
    return spec.model_copy(update={"action_head": Reader(**SMALL | settings)}).fitted()


def head_inputs(spec: PolicySpec, layers: int) -> tuple[ModelInputs, list[torch.Tensor]]:
    """Inputs of vectors alone, and hidden states for them."""
    torch.manual_seed(0)
    text = Text(torch.randn(2, 4, spec.backbone.traits.text_width))
    action = NoisyVectors(torch.randn(2, 6, 4), torch.tensor([0.2, 0.7]))
    hidden = [torch.randn(2, 5, spec.backbone.traits.width) for _ in range(layers)]
    return ModelInputs(text, action=action, state=torch.randn(2, 3)), hidden


def read(
    spec: PolicySpec,
    head: Any,
    inputs: ModelInputs,
    hidden: list[torch.Tensor],
    level: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Velocity of the action, read from hidden states of `head.layers`."""
    layers: list[dict[str, torch.Tensor]] = [{} for _ in range(max(head.layers) + 1)]
    for layer, states in zip(head.layers, hidden, strict=True):
        layers[layer] = {"context": states}
    cache = KVCache([], layers, {"context": level})
    velocity = run_head(head, spec.backbone.build(), inputs, {"action": ["context"]}, cache).action
    assert velocity is not None
    return velocity


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("paradigm", ["single_pass", "joint"])
@float64()
def test_a_cache_changes_nothing(reads: str, paradigm: str) -> None:
    spec = spec_for("toy", paradigm, reads=reads)
    assert check(spec) == []
    policy = randomize_weights(Policy.from_spec(spec))
    with torch.no_grad():
        inputs, found = inference_inputs(policy, observation(spec)), []
        for model in (policy.model, uncached(policy.model)):
            rng = torch.Generator().manual_seed(3)
            found.append(policy.paradigm.act(model, inputs, policy.schedules, rng).action)
    same_values(*found)


@pytest.mark.parametrize("backbone", ["timm_vit", "flux2"])
@float64()
def test_a_cache_changes_nothing_wherever_text_tokens_pass(backbone: str) -> None:
    paradigm = "single_pass" if backbone == "timm_vit" else "joint"
    policy = randomize_weights(Policy.from_spec(spec_for(backbone, paradigm)))
    with torch.no_grad():
        inputs, found = inference_inputs(policy, observation(policy.spec)), []
        valid = torch.ones(inputs.text.tokens.shape[:2], dtype=torch.bool)
        valid[0, 2:] = False
        inputs = inputs.with_(text=replace(inputs.text, valid=valid))
        for model in (policy.model, uncached(policy.model)):
            rng = torch.Generator().manual_seed(3)
            found.append(policy.paradigm.act(model, inputs, policy.schedules, rng).action)
        same_values(*found)
        # Padding is hidden from the head, other text tokens are not.
        for row, seen in ((slice(2, None), False), (slice(0, 2), True)):
            tokens = inputs.text.tokens.clone()
            tokens[0, row] += 1
            other = inputs.with_(text=replace(inputs.text, tokens=tokens))
            rng = torch.Generator().manual_seed(3)
            moved = policy.paradigm.act(policy.model, other, policy.schedules, rng).action
            (other_values if seen else same_values)(moved, found[0])


@pytest.mark.parametrize(
    ("reads", "state"), [*zip(READS, ("token", "concat", "text", "token"), strict=True)]
)
def test_gradients_reach_every_weight(reads: str, state: str) -> None:
    text = "cross" if state == "text" else "none"
    spec = spec_for("toy", "joint", reads=reads, state=state, text=text)
    policy = randomize_weights(Policy.from_spec(spec)).train()
    policy.loss(batch_of(spec), seed=0).total.backward()
    weights = policy.action_head.named_parameters()
    dead = [name for name, p in weights if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


@float64()
def test_each_block_reads_its_own_layer_or_all_read_the_same() -> None:
    spec = spec_for(depth=3)
    inputs, hidden = head_inputs(spec, 3)
    for reads, layers, used in (
        ("each", None, (0, 1, 2)),
        ("each", (0, 2), (0, 2)),
        ("one", None, (2,)),
        ("one", (-3,), (0,)),
        ("last", None, (2,)),
        ("all", (1, -1), (1, 2)),
    ):
        head = Reader(**SMALL, reads=reads, layers=layers).build(spec.sizes)
        assert head.layers == used
        assert len(head.blocks) == (len(used) if reads == "each" else 8)
        with torch.no_grad():
            states = hidden[: len(used)]
            one = read(spec, head, inputs, states)
            for i in range(len(used)):
                moved = [h + 1 if i == j else h for j, h in enumerate(states)]
                two = read(spec, head, inputs, moved)
                other_values(two, one, 0.0001)


@torch.no_grad()
def test_hidden_states_become_keys_once_for_all_steps() -> None:
    for paradigm, times in (("single_pass", 1), ("joint", 3)):
        policy = Policy.from_spec(spec_for("toy", paradigm))
        calls: list[int] = []
        for block in policy.action_head.blocks:  # type: ignore[union-attr]
            keys = block.attn2.to_k  # type: ignore[union-attr]
            keys.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        policy.act(observation(policy.spec), seed=0)
        assert policy.spec.schedules.action.steps == 3
        assert len(calls) == times * len(policy.action_head.blocks)  # type: ignore[arg-type]


@torch.no_grad()
@float64()
def test_the_level_of_the_frames_is_read_if_asked_for_and_kept_with_them() -> None:
    spec = spec_for("toy", "joint")
    for reads, both in (("one", True), ("each", False)):
        head = Reader(**SMALL, reads=reads).build(spec.sizes)
        inputs, hidden = head_inputs(spec, len(head.layers))
        one = read(spec, head, inputs, hidden, torch.tensor([0.0, 0.5]))
        two = read(spec, head, inputs, hidden, torch.tensor([0.0, 0.9]))
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1]) != both

    policy = randomize_weights(Policy.from_spec(spec_for("toy", "joint", reads="one")))
    full = inference_inputs(policy, observation(spec))
    assert full.video is not None
    full = full.with_(video=full.video.at(torch.tensor([0.3, 0.6]), "target"))
    kept = policy.model(full.without("action"), keep=("text", "context", "target")).cache
    assert kept is not None
    assert kept.levels["context"].tolist() == [0, 0]
    same_values(kept.levels["target"], torch.tensor([0.3, 0.6]))
    fast = policy.model(full.with_(video=None), cache=kept).action
    same_values(fast, policy.model(full).action)

    moved = kept.rename_roles({"target": "target'"}).pick(torch.tensor([1, 1, 0])) | KVCache(
        kept.layers, kept.hidden, {"context": torch.ones(3)}
    )
    assert moved.level(("context", "target'")).tolist() == [1, 1, 1]
    same_values(moved.level(("target'",)), torch.tensor([0.6, 0.6, 0.3]))


@torch.no_grad()
def test_only_hidden_states_of_kept_roles_are_kept() -> None:
    policy = Policy.from_spec(spec_for("toy", "joint"))
    inputs = inference_inputs(policy, observation(policy.spec))
    kept = policy.model(inputs, keep=("context",)).cache
    assert kept is not None and all(set(layer) <= {"context"} for layer in kept.hidden)


@pytest.mark.parametrize("state", ["token", "concat", "text", "none"])
def test_the_state_enters_where_it_is_configured(state: str) -> None:
    spec = spec_for("toy", "joint", state=state)
    policy = randomize_weights(Policy.from_spec(spec))
    tokens = spec.action_head.tokens(spec.sizes)
    assert tokens == ({"state": 1} if state == "token" else {}) | {"action": 6}
    given = observation(spec)
    assert given.state is not None
    with torch.no_grad():
        one = policy.model(inference_inputs(policy, given))
        two = policy.model(inference_inputs(policy, replace(given, state=given.state + 1)))
    assert one.action is not None and two.action is not None and one.video is not None
    assert torch.equal(one.action, two.action) == (state == "none")
    assert two.video is not None and torch.equal(one.video, two.video) == (state != "text")
    hints = [c.hint for c in check(spec)]
    assert hints == (
        ['set action_head.state = "text", or state.size = 0'] if state == "none" else []
    )


def test_the_prompt_is_read_where_the_backbone_does_not() -> None:
    for backbone, text in (("timm_vit", "cross"), ("toy", "none")):
        spec = spec_for(backbone)
        assert spec.action_head.text == text  # type: ignore[attr-defined]
        assert spec.action_head.reads_text == (text == "cross") and check(spec) == []
    found = check(spec_for("timm_vit", text="none"))
    assert len(found) == 1 and "reads no text" in found[0].why


@torch.no_grad()
def test_vectors_see_each_other_by_the_visibility_table() -> None:
    spec = spec_for("toy", "single_pass")
    sizes = spec.sizes.model_copy(update={"predicts": ("action", "next_state", "value")})
    head, model = Reader(**SMALL).build(sizes), spec.backbone.build()
    inputs, _ = head_inputs(spec, 2)
    z = torch.randn(2, spec.backbone.traits.latent_channels, 2, *spec.latent_size)
    inputs = inputs.with_(
        video=Frames(z, ("context", "target"), counted(2), torch.tensor([[0, 0.5]] * 2)),
        next_state=NoisyVectors(torch.randn(2, 1, 3), torch.tensor([0.3, 0.4])),
        value=NoisyVectors(torch.randn(2, 1, 1), torch.tensor([0.5, 0.6])),
    )
    seen = {"text", "context", "state"}
    sees = {
        "context": {"context"},
        "target": {"context", "target"},
        "action": seen | {"action"},
        "next_state": seen | {"action", "next_state"},
        "value": seen | {"action", "next_state", "value", "target"},
    }
    one = run_head(head, model, inputs, sees)
    assert one.action.shape == (2, 6, 4)
    assert one.next_state.shape == (2, 1, 3) and one.value.shape == (2, 1, 1)

    def moved(**changes: Any) -> set[str]:
        two = run_head(head, model, inputs.with_(**changes), sees)
        return {
            part
            for part in ("action", "next_state", "value")
            if not torch.equal(getattr(one, part), getattr(two, part))
        }

    def shifted(part: str) -> NoisyVectors:
        return replace(inputs.noisy(part), x=inputs.noisy(part).x + 1)

    assert inputs.video is not None
    assert moved(action=shifted("action")) == {"action", "next_state", "value"}
    assert moved(next_state=shifted("next_state")) == {"next_state", "value"}
    assert moved(value=shifted("value")) == {"value"}
    assert moved(video=inputs.video.put(z[:, :, 1:] + 1, "target")) == {"value"}


@torch.no_grad()
@float64()
def test_chunks_of_one_pass_are_read_as_if_alone() -> None:
    spec = spec_for("toy", "single_pass")
    head, model = Reader(**SMALL).build(spec.sizes), spec.backbone.build()
    inputs, _ = head_inputs(spec, 2)
    z = torch.randn(2, spec.backbone.traits.latent_channels, 2, *spec.latent_size)
    video = Frames(z, ("context.0", "context.1"), counted(2), torch.zeros(2, 2))
    sees = {
        "context.0": {"context.0"},
        "context.1": {"context.0", "context.1"},
        "action.0": {"context.0", "action.0"},
        "action.1": {"context.0", "context.1", "action.0", "action.1"},
    }
    roles = ("action.0",) * 6 + ("action.1",) * 6
    both = NoisyVectors(torch.randn(2, 12, 4), torch.rand(2, 12), roles)
    found = run_head(head, model, inputs.with_(video=video, action=both), sees).action
    for i in (0, 1):
        part = slice(6 * i, 6 * i + 6)
        times = counted(12)[part]
        alone = NoisyVectors(both.x[:, part], both.sigma[:, part], roles[part], times)
        view = replace(inputs, text=replace(inputs.text), video=video, action=alone)
        same_values(run_head(head, model, view, sees).action, found[:, part])


@pytest.mark.parametrize(
    ("settings", "why", "hint"),
    [
        ({"layers": (0, 7)}, "found layers [7], and toy has layers 0 to 1", {"layers": (0, 1)}),
        ({"layers": (-3,)}, "found layers [-3]", {"layers": "all"}),
        ({"layers": ()}, "found layers []", {"layers": "all"}),
        ({"reads": "one", "layers": (0, 1)}, "is about one layer, found 2", {"reads": "all"}),
        ({"blocks": 3}, "found blocks = 3", {"blocks": None}),
    ],
)
def test_layers_that_cannot_be_read_are_refused(
    settings: dict[str, Any], why: str, hint: dict[str, Any]
) -> None:
    found = check(spec_for(**settings))
    assert len(found) == 1 and why in found[0].why and "action_head." in str(found[0])
    assert check(spec_for(**settings | hint)) == []


@float64()
def test_a_state_may_pass_as_an_action_whose_other_values_are_zero() -> None:
    spec = spec_for(state="action_token")
    policy = randomize_weights(Policy.from_spec(spec)).double()
    head: Any = policy.action_head
    state = torch.randn(2, 1, 2)
    wanted = head.encoders["action"](
        torch.cat([torch.zeros(2, 1, spec.actions.size - 2), state], 2)
    )
    same_values(head.encode_state(state), wanted)
    assert "state" not in head.encoders
    wide = spec.model_copy(update={"state": spec.state.model_copy(update={"size": 9})})
    assert any("passes as an action" in conflict.why for conflict in check(wide))


def test_a_video_that_attends_to_the_action_is_refused() -> None:
    spec = spec_for("toy", "joint")
    mutual = spec.paradigm.model_copy(update={"attends": "mutual"})
    found = check(spec.model_copy(update={"paradigm": mutual}))
    assert len(found) == 1 and "exposes no tokens" in found[0].why

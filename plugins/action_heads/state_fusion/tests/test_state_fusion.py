"""Pooled and fused layers: published sizes and numbers, plain regression, adapters in the stack."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from wamkit_state_fusion import StateFusion
from wamkit_state_fusion.adapters import CorrectedBackbone

from wamkit import check
from wamkit.checkpoints import safetensors as weights
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.engine.kv_cache import KVCache
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.types import ModelInputs, NoisyVectors, Text
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, observation, randomize_weights, run_head, spec_with
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

SMALL: dict[str, Any] = {"queries": 3, "num_heads": 2, "layer_width": 20, "width": 24, "adapter": 8}


def spec_for(
    backbone: str = "toy", paradigm: str = "single_pass", /, **settings: Any
) -> PolicySpec:
    """A tiny spec with this head, whose small sizes `settings` may overrule."""
    head = StateFusion(**SMALL | settings)
    spec = spec_with(backbone=backbone, paradigm=paradigm)
    return spec.model_copy(update={"action_head": head}).fitted()


def test_the_published_head_has_its_published_size() -> None:
    wan = registry().parts["backbone"]["wan"](variant="2.1-t2v-1.3b")  # type: ignore[call-arg]
    sizes = spec_for().sizes.model_copy(
        update={"backbone": wan, "action": 7, "state": 8, "chunk": 32}
    )
    with torch.device("meta"):
        head = StateFusion().build(sizes)
    assert head.layers == (8, 16, 24)
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in head.named_children()
    }
    apart = counts["adapters"] + counts["state_to_text"]
    assert sum(counts.values()) - apart == pytest.approx(351e6, rel=0.01)
    assert counts["adapters"] == 3 * (2 * 1536 + 1536 * 256 + 256 + 256 * 1536 + 1536)


def _published(tensors: dict[str, Tensor], hidden: list[Tensor], steps: int) -> Tensor:
    """Light-WAM's head in torch's own modules, from weights under its names."""

    def linear(name: str, x: Tensor) -> Tensor:
        return nn.functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return nn.functional.layer_norm(x, (len(weight),), weight, bias)

    def gelu(x: Tensor) -> Tensor:
        return nn.functional.gelu(x, approximate="tanh")

    pieces = []
    for i, states in enumerate(hidden):
        at = f"layer_poolers.{i}.adapted"
        attention = nn.MultiheadAttention(states.shape[2], 2, batch_first=True)
        attention.load_state_dict(
            {k.removeprefix(f"{at}.attn."): v for k, v in tensors.items() if f"{at}.attn." in k}
        )
        keys, queries = norm(f"{at}.token_norm", states), tensors[f"{at}.query_tokens"]
        pooled, _ = attention(queries.expand(len(states), -1, -1), keys, keys)
        share = tensors[f"{at}.query_merge_logits"].softmax(0)[:, None]
        x = norm(f"{at}.output_norm", (pooled * share).sum(1))
        at = f"layer_compressors.{i}"
        pieces.append(linear(f"{at}.fc2", gelu(linear(f"{at}.fc1", norm(f"{at}.norm", x)))))
    x = linear("fused_proj", norm("fused_norm", torch.cat(pieces, 1)))
    x = x + linear("trunk.0.fc2", gelu(linear("trunk.0.fc1", norm("trunk.0.norm", x))))
    angle = torch.arange(steps).double()[:, None] / 10_000 ** (torch.arange(128).double() / 128)
    place = torch.cat([angle.cos(), angle.sin()], 1).float()
    place = linear(
        "step_pos_proj.3", gelu(linear("step_pos_proj.1", norm("step_pos_proj.0", place)))
    )
    x = norm("output_norm", x[:, None] + place)
    return linear("output.2", gelu(linear("output.0", x)))


@torch.no_grad()
@float64()
def test_weights_under_published_names_give_the_published_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = spec_for().sizes
    d, text_width = sizes.traits.width, sizes.traits.text_width
    shapes = {
        **{f"layer_poolers.{i}.adapted.{n}": s for i in (0, 1) for n, s in {
            "token_norm.weight": (d,), "token_norm.bias": (d,), "query_tokens": (3, d),
            "attn.in_proj_weight": (3 * d, d), "attn.in_proj_bias": (3 * d,),
            "attn.out_proj.weight": (d, d), "attn.out_proj.bias": (d,),
            "query_merge_logits": (3,), "output_norm.weight": (d,), "output_norm.bias": (d,),
        }.items()},
        **{f"layer_compressors.{i}.{n}": s for i in (0, 1) for n, s in {
            "norm.weight": (d,), "norm.bias": (d,), "fc1.weight": (20, d), "fc1.bias": (20,),
            "fc2.weight": (20, 20), "fc2.bias": (20,),
        }.items()},
        "fused_norm.weight": (40,), "fused_norm.bias": (40,),
        "fused_proj.weight": (24, 40), "fused_proj.bias": (24,),
        **{f"trunk.0.{n}.weight": (24, 24) for n in ("fc1", "fc2")},
        **{f"trunk.0.{n}.bias": (24,) for n in ("fc1", "fc2", "norm")},
        "trunk.0.norm.weight": (24,),
        "step_pos_proj.0.weight": (256,), "step_pos_proj.0.bias": (256,),
        "step_pos_proj.1.weight": (24, 256), "step_pos_proj.1.bias": (24,),
        "step_pos_proj.3.weight": (24, 24), "step_pos_proj.3.bias": (24,),
        "output_norm.weight": (24,), "output_norm.bias": (24,), "output.0.weight": (24, 24),
        "output.0.bias": (24,), "output.2.weight": (4, 24), "output.2.bias": (4,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    whole = {f"state_fusion_action_expert.{name}": tensor for name, tensor in tensors.items()}
    adapter = {"norm.weight": (d,), "norm.bias": (d,), "down_proj.weight": (8, d),
               "down_proj.bias": (8,), "up_proj.weight": (d, 8), "up_proj.bias": (d,)}  # fmt: skip
    for layer, (name, shape) in ((i, item) for i in (0, 1) for item in adapter.items()):
        whole[f"mot.mixtures.video.wam_adapters.{layer}.{name}"] = torch.randn(shape)
    whole["proprio_encoder.weight"] = torch.randn(text_width, 3)
    whole["proprio_encoder.bias"] = torch.randn(text_width)
    whole["mot.mixtures.video.blocks.0.self_attn.q.weight"] = torch.randn(2, 2)
    file = nn.Module()
    for name, tensor in whole.items():
        *parents, last = name.split(".")
        at = file
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, nn.Module())
            at = getattr(at, parent)
        at.register_parameter(last, nn.Parameter(tensor))
    weights.save(file, tmp_path / "light_wam.safetensors")
    head = StateFusion(**SMALL, weights=str(tmp_path / "light_wam.safetensors")).build(sizes)
    hidden = [torch.randn(2, 7, d) for _ in range(2)]
    noisy = NoisyVectors(torch.randn(2, 6, 4), torch.ones(2))
    inputs = ModelInputs(Text(torch.randn(2, 3, text_width)), action=noisy)
    cache = KVCache([], [{"context": states} for states in hidden], {"context": 0.0})
    velocity = run_head(
        head, spec_for().backbone.build(), inputs, {"action": ["context"]}, cache
    ).action
    assert velocity is not None
    same_values(noisy.x - velocity, _published(tensors, hidden, 6))
    corrected = whole["mot.mixtures.video.wam_adapters.1.up_proj.weight"]
    assert torch.equal(head.adapters["1"][3].weight, corrected)


@pytest.mark.parametrize("paradigm", ["single_pass", "joint"])
@torch.no_grad()
@float64()
def test_a_cache_changes_nothing(paradigm: str) -> None:
    policy = randomize_weights(Policy.from_spec(spec_for("toy", paradigm)))
    inputs, found = inference_inputs(policy, observation(policy.spec)), []
    for model in (policy.model, uncached(policy.model)):
        rng = torch.Generator().manual_seed(3)
        found.append(policy.paradigm.act(model, inputs, policy.schedules, rng).action)
    same_values(*found)


@float64()
def test_noise_changes_no_action_and_the_loss_is_plain_regression() -> None:
    policy = randomize_weights(Policy.from_spec(spec_for()))
    seen, batch = observation(policy.spec), batch_of(policy.spec)
    one, two = (policy.act(seen, seed=seed).values for seed in (0, 1))
    same_values(one, two)
    with torch.no_grad():
        inputs = training_inputs(policy, batch)
        assert inputs.action is not None and inputs.video is not None
        alone = inputs.with_(video=inputs.video.only("context"))
        still = alone.put("action", torch.zeros_like(inputs.action.x), 1.0)
        found = policy.model(still).action
        assert found is not None
        expected = (-found - inputs.action.x).square().mean()
        same_values(policy.loss(batch, seed=0).parts["action"], expected)


def test_the_loss_may_look_at_the_first_actions_only() -> None:
    spec = spec_for(first_steps=2)
    policy, batch = randomize_weights(Policy.from_spec(spec)), batch_of(spec)
    whole = randomize_weights(Policy.from_spec(spec_for()))
    one = policy.loss(batch, seed=0).parts["action"]
    batch.actions[:, 2:] = 0
    assert torch.equal(policy.loss(batch, seed=0).parts["action"], one)
    assert not torch.equal(whole.loss(batch, seed=0).parts["action"], one)
    found = check(spec_for(first_steps=7))
    assert len(found) == 1 and "the first 7 of 6 actions" in found[0].why


@pytest.mark.parametrize("backbone", ["toy", "timm_vit"])
@pytest.mark.parametrize("state", ["text", "concat"])
def test_gradients_reach_every_weight(backbone: str, state: str) -> None:
    spec = spec_for(backbone, state=state)
    assert check(spec) == []
    assert spec.action_head.text == ("pooled" if backbone == "timm_vit" else "none")  # type: ignore[attr-defined]
    policy = randomize_weights(Policy.from_spec(spec)).train()
    policy.loss(batch_of(spec), seed=0).total.backward()
    weights = policy.action_head.named_parameters()
    dead = [n for n, p in weights if p.grad is None or not p.grad.abs().max() > 0]
    # A bias added to all keys cancels in the softmax.
    assert not [name for name in dead if not name.endswith("to_k.bias")]


@torch.no_grad()
@float64()
def test_adapters_begin_as_nothing_and_then_correct_the_rest_of_the_stack() -> None:
    specs = (spec_for("toy", adapter=n, state="concat") for n in (8, 0))
    with_, without = (Policy.from_spec(spec) for spec in specs)
    inputs = inference_inputs(with_, observation(with_.spec))
    one, other = with_.model(inputs).video, without.model(inputs).video
    assert one is not None and other is not None and not without.action_head.adapters
    assert torch.equal(one, other)
    with_.action_head.adapters["0"][3].bias.normal_()  # type: ignore[index, union-attr]
    two = with_.model(inputs).video
    other_values(two, one)
    assert two is not None


@torch.no_grad()
def test_a_corrected_backbone_is_one_object_that_owns_no_weights() -> None:
    policy = randomize_weights(Policy.from_spec(spec_for()))
    head: Any = policy.action_head
    backbone: Any = policy.backbone
    names = set(policy.state_dict())
    policy.act(observation(policy.spec), seed=0)
    adapters = {0: head.adapters["0"], 1: head.adapters["1"]}
    one = head.corrected.get_or_wrap(CorrectedBackbone, backbone, adapters)
    again = head.corrected.get_or_wrap(CorrectedBackbone, backbone, dict(adapters))
    assert one is again is not backbone
    assert not list(one.parameters()) and set(policy.state_dict()) == names
    first, second = one.blocks
    assert one.blocks[0] is first and first.block is backbone.blocks[0]
    backbone.blocks[0] = deepcopy(backbone.blocks[0])
    assert one.blocks[0] is not first and one.blocks[1] is second
    assert one.blocks[0].block is backbone.blocks[0]


@torch.no_grad()
def test_a_copy_of_a_policy_reads_its_own_backbone_and_adapters() -> None:
    policy = randomize_weights(Policy.from_spec(spec_for()))
    seen = observation(policy.spec)
    one = policy.act(seen, seed=0).values
    for module in ("backbone", "action_head"):
        other = deepcopy(policy)
        assert torch.equal(other.act(seen, seed=0).values, one)
        for p in other.get_submodule(module).parameters():
            p.add_(0.1)
        other_values(other.act(seen, seed=0).values, one)
        assert torch.equal(policy.act(seen, seed=0).values, one)


@torch.no_grad()
def test_the_state_to_come_and_its_value_are_regressed_too() -> None:
    spec = spec_for()
    sizes = spec.sizes.model_copy(update={"predicts": ("action", "next_state", "value")})
    head = StateFusion(**SMALL).build(sizes)
    ones, d = torch.ones(2), sizes.traits.width
    inputs = ModelInputs(
        Text(torch.randn(2, 3, sizes.traits.text_width)),
        next_state=NoisyVectors(torch.randn(2, 1, 3), ones),
        value=NoisyVectors(torch.randn(2, 1, 1), ones),
    )
    memory = head.encode_hidden([torch.randn(2, 7, d)] * 2, None, head.embed_text(inputs.text))
    found = head.read(inputs, inputs.groups(), memory, None, None, PassRunner().call)
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "next_state": (2, 1, 3),
        "value": (2, 1, 1),
    }


def test_what_does_not_fit_is_refused_with_a_way_out() -> None:
    found = check(spec_for(num_heads=7))
    assert len(found) == 1 and "7 heads cannot share tokens of width 24" in found[0].why
    assert found[0].hint == "set action_head.num_heads = 6" and check(spec_for(num_heads=6)) == []
    found = check(spec_for(layers=(0, 5)))
    assert len(found) == 1 and "found layers [5]" in found[0].why
    found = check(spec_for(state="none"))
    assert len(found) == 1 and "nothing reads" in found[0].why

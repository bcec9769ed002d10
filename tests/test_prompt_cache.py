"""What a network makes of an instruction is made once, and forgotten when a weight changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from wamkit.bench.hooks import hook_method
from wamkit.config.compositions import Cell, matrix
from wamkit.config.spec import parse
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, observation

CELLS = [c for c in matrix() if c.runs and (c.action_head, c.paradigm) == ("mot", "single_pass")]
READS = [c for c in CELLS if c.spec.backbone.traits.text == "cross"]
CHANGES: dict[str, Callable[[Policy], object]] = {
    "in place": lambda policy: _each(policy, lambda p: p.mul_(1.5)),
    "replaced": lambda policy: policy.load_state_dict(_state(policy), assign=True),
    "replaced in a part": lambda policy: policy.backbone.load_state_dict(  # type: ignore[attr-defined]
        {k: 1.5 * v for k, v in policy.backbone.state_dict().items()},  # type: ignore[attr-defined]
        assign=True,
    ),
    "layers replaced": lambda policy: _replace(policy),
    "learned": lambda policy: _learn(policy),
    "cast": lambda policy: policy.double().float(),
}


def made_of(cell: Cell) -> Policy:
    """Its policy, with the state next to the words and not among them."""
    spec = cell.spec.dump()
    spec["action_head"]["state"] = "token"
    return Policy.from_spec(parse(spec).fitted())


def _name(cell: Cell) -> str:
    return cell.backbone


@torch.no_grad()
def _each(policy: nn.Module, change: Callable[[torch.Tensor], object]) -> None:
    for p in policy.parameters():
        change(p)


def _state(policy: nn.Module) -> dict[str, torch.Tensor]:
    return {k: 1.5 * v for k, v in policy.state_dict().items()}


def _replace(policy: Policy) -> None:
    for module in list(policy.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                other = copy.deepcopy(layer)
                _each(other, lambda p: p.mul_(1.5))
                setattr(module, name, other)


def _learn(policy: Policy) -> None:
    policy.train()
    policy.loss(batch_of(policy.spec), seed=0).total.backward()
    torch.optim.SGD([p for p in policy.parameters() if p.grad is not None], 0.1).step()
    policy.eval()


@pytest.mark.parametrize("cell", READS, ids=_name)
def test_what_follows_from_the_prompt_is_computed_once_for_many_chunks(cell: Cell) -> None:
    policy, seen = made_of(cell), observation(cell.spec)
    first = policy.act(seen, seed=0).values
    (text,) = policy.prompt_state._texts.values()
    kept = dict(text.prompt_cache)
    assert kept  # of the video, and of its expert
    assert torch.equal(policy.act(seen, seed=0).values, first)
    assert text.prompt_cache.keys() == kept.keys()
    assert all(text.prompt_cache[key] is value for key, value in kept.items())


@pytest.mark.parametrize("cell", READS, ids=_name)
def test_guidance_encodes_both_prompts_once_for_many_chunks(cell: Cell) -> None:
    spec = cell.spec.dump()
    spec["schedules"]["action"]["guidance_scale"] = 2.0
    spec["action_head"]["state"] = "token"
    policy, seen = Policy.from_spec(parse(spec).fitted()), observation(cell.spec)
    calls: list[object] = []

    def record(method: Callable[..., object], *args: object) -> object:
        calls.append(method)
        return method(*args)

    first = policy.act(seen, seed=0).values
    with ExitStack() as stack:
        for block in policy.backbone.blocks:
            stack.enter_context(hook_method(block, "text_kv", record))
        assert torch.equal(policy.act(seen, seed=0).values, first) and not calls
        policy.act(seen.__class__(seen.images, ["another"] * 2, seen.state), seed=0)
    assert calls


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("cell", READS, ids=_name)
def test_changed_weights_are_never_read_with_what_others_made(
    cell: Cell, change: Callable[[Policy], object]
) -> None:
    policy, seen = made_of(cell), observation(cell.spec)
    policy.act(seen, seed=0)
    change(policy)
    fresh = copy.deepcopy(policy)
    assert not fresh.prompt_state._texts
    assert torch.equal(policy.act(seen, seed=0).values, fresh.act(seen, seed=0).values)


def test_few_instructions_are_kept_and_the_last_ones() -> None:
    policy = made_of(CELLS[0])
    seen = observation(CELLS[0].spec)
    for i in range(6):
        policy.act(seen.__class__(seen.images, [f"{i}"] * 2, seen.state), seed=0)
    kept = [prompts[0] for prompts, *_ in policy.prompt_state._texts]  # type: ignore[misc]
    assert kept == ["2", "3", "4", "5"]


def test_nothing_is_kept_while_a_policy_learns() -> None:
    policy = made_of(CELLS[0])
    policy.train()
    policy.loss(batch_of(policy.spec), seed=0)
    with torch.no_grad():
        policy.loss(batch_of(policy.spec), seed=0)
    assert not policy.prompt_state._texts


@pytest.mark.parametrize("within", [True, False], ids=["a loss", "a chunk"])
@torch.no_grad()
def test_what_is_computed_in_lower_precision_does_not_last(within: bool) -> None:
    policy, seen = made_of(READS[0]), observation(READS[0].spec)
    expected = made_of(READS[0]).act(seen, seed=0).values
    batch = batch_of(policy.spec, size=len(seen.prompt))
    assert batch.observation.prompt == seen.prompt
    if within:
        policy.loss(batch, seed=0, compute=torch.bfloat16)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            policy.act(seen, seed=0)
    assert torch.equal(policy.act(seen, seed=0).values, expected)

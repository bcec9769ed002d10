"""A policy whose passes are compiled gives the chunk of one whose passes are not, whatever changes.

Without code generation: what is tested is what is taken for granted of a pass, and when it is
compiled anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from wamkit.acceleration.compile_modules import CompiledPass
from wamkit.config.compositions import Cell, matrix
from wamkit.engine.attention import Inside, run_pass
from wamkit.engine.passes import PassRunner
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.policy.text_cache import TextEmbeddingCache
from wamkit.testing.batch_independence import OneTokenPerWord
from wamkit.testing.fixtures import observation, randomize_weights
from wamkit.testing.parity import other_values, same_values

CELLS = [c for c in matrix() if c.runs]
# Every backbone, and every paradigm, with mot.
COLUMNS = [
    c
    for c in CELLS
    if c.action_head == "mot" and (c.paradigm == "single_pass" or c.backbone == "toy")
]
TOY = next(c for c in COLUMNS if (c.backbone, c.paradigm) == ("toy", "joint"))


def _name(cell: Cell) -> str:
    return f"{cell.backbone}-{cell.paradigm}"


def compiled(policy: Policy) -> Policy:
    """The policy, its passes traced and run as they were traced."""
    policy.runner = PassRunner(partial(CompiledPass, backend="eager"))
    return policy


def same_chunk(policy: Policy, seen: Observation) -> Tensor:
    """The chunk of a compiled policy, which is that of a copy that is not compiled."""
    eager = copy.deepcopy(policy)
    eager.runner = PassRunner()
    expected = eager.act(seen, seed=0).values
    same_values(policy.act(seen, seed=0).values, expected)
    return expected


def asked(seen: Observation, *prompts: str) -> Observation:
    """The observation under other prompts."""
    return replace(seen, prompt=list(prompts))


@pytest.mark.parametrize("cell", COLUMNS, ids=_name)
def test_another_prompt_and_a_longer_one(cell: Cell) -> None:
    policy, seen = compiled(randomize_weights(Policy.from_spec(cell.spec))), observation(cell.spec)
    policy.text_embeddings = TextEmbeddingCache(OneTokenPerWord(cell.spec.text_encoder.width))
    one = same_chunk(policy, asked(seen, "lift it", "lift it"))
    two = same_chunk(policy, asked(seen, "drop it", "drop it"))
    other_values(one, two)
    same_chunk(policy, asked(seen, "put the red cup down", "lift it"))


def test_weights_that_are_loaded_replaced_or_changed_in_place() -> None:
    policy, seen = compiled(randomize_weights(Policy.from_spec(TOY.spec))), observation(TOY.spec)
    chunks = [same_chunk(policy, seen)]
    other = randomize_weights(Policy.from_spec(TOY.spec), seed=7)
    policy.load_state_dict(other.state_dict())
    chunks.append(same_chunk(policy, seen))
    with torch.no_grad():
        for p in policy.backbone.parameters():
            p.mul_(1.1)
    chunks.append(same_chunk(policy, seen))
    policy.backbone.load_state_dict(
        randomize_weights(Policy.from_spec(TOY.spec)).backbone.state_dict()
    )
    block = policy.backbone.blocks[0]
    block.to_out = copy.deepcopy(other.backbone.blocks[0].to_out)
    chunks.append(same_chunk(policy, seen))
    for before, after in pairwise(chunks):
        other_values(before, after, 1e-4)


@pytest.mark.parametrize("cell", [c for c in COLUMNS if c.paradigm == "single_pass"], ids=_name)
def test_another_dtype(cell: Cell) -> None:
    policy, seen = compiled(randomize_weights(Policy.from_spec(cell.spec))), observation(cell.spec)
    narrow = same_chunk(policy, seen)
    policy.to(torch.float64)
    wide = same_chunk(policy, seen)
    same_values(narrow, wide.to(narrow.dtype))


@torch.compiler.nested_compile_region
def region(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """A compiled layer of two streams."""
    return torch.sin(x) @ weight + y


def entered(x: Tensor, y: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Layers whose first call would be given one tensor twice, if it were not copied before."""
    x, y = (z.clone(memory_format=torch.contiguous_format) for z in (x, y))
    for weight in weights:
        x = region(x, y, weight)
    return x


def test_a_region_that_is_first_called_with_one_tensor_twice() -> None:
    """torch 2.14.1 takes two arguments that are one tensor in the first call for one in all."""
    rng = torch.Generator().manual_seed(0)
    a, *weights = (torch.randn(4, 4, generator=rng) for _ in range(4))
    expected = a
    for weight in weights:
        expected = torch.sin(expected) @ weight + a
    torch._dynamo.reset()
    found = torch.compile(entered, fullgraph=True, backend="eager")(a, a, weights)
    same_values(found, expected)


class Sum:
    """A block without weights, which adds what it is given."""

    def pre_attention(self, x: Tensor, modulation: Any, rotary: Any) -> Any:
        from wamkit.engine.layers import QKV

        heads = x.unflatten(-1, (1, -1)).transpose(1, 2)
        return QKV(heads, 2 * heads, 3 * heads), (x,)

    def post_attention(self, attended: Tensor, carry: Any, modulation: Any, text_kv: Any) -> Tensor:
        return attended + carry[0]


def test_two_streams_of_one_tensor_are_two_in_every_layer() -> None:
    from wamkit.config.visibility import freeze
    from wamkit.engine.attention_plan import plan_pass
    from wamkit.engine.conditioning import ModulationTable
    from wamkit.engine.kv_cache import Segment, bind_keys

    x, blocks = torch.randn(1, 3, 4), (Sum(), Sum(), Sum())
    table = ModulationTable((), (None,) * 3)
    index = torch.zeros(1, 1, dtype=torch.long)
    streams = tuple(Inside(blocks, x, index, table, None, None, None) for _ in range(2))
    sees = freeze({"a": {"a"}, "b": {"a", "b"}})
    plan = plan_pass(((("a", 3),), (("b", 3),)), ((True,) * 3,) * 2, sees)
    keys = bind_keys(plan, [[Segment("a", 3)], [Segment("b", 3)]], None, x)
    with torch.no_grad():
        expected = run_pass(plan, streams, keys).tokens
        torch._dynamo.reset()
        found = CompiledPass(run_pass, backend="eager")(plan, streams, keys)
    same_values(found.tokens, expected)


def test_steps_with_one_cache_are_looked_at_once() -> None:
    policy, seen = compiled(randomize_weights(Policy.from_spec(TOY.spec))), observation(TOY.spec)
    same_chunk(policy, seen)
    looked_at, looks = [], CompiledPass.__call__

    def counted(self: CompiledPass, *args: Any) -> Any:
        looked_at.append(args[0])
        return looks(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledPass, "__call__", counted)
        policy.act(seen, seed=0)
    plans = [plan for plan in looked_at if isinstance(plan, tuple)]
    assert TOY.spec.schedules.action.steps > 1 and len(plans) == len({*map(id, plans)})

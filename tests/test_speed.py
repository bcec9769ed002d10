"""What the step loop does not do: wait, copy what it knows, build tensors, grow with its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wamkit.bench.hooks import hook_method
from wamkit.config.compositions import Cell, matrix
from wamkit.engine.layers import RotaryEmbedding, rotate_pairs
from wamkit.engine.levels import MAX_LEVELS, Level, LevelTable, index_levels, level_in_run
from wamkit.interfaces.action_head import is_prefill
from wamkit.interfaces.types import ModelInputs, NoisyVectors, Text
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation
from wamkit.testing.parity import same_values

CELLS = [c for c in matrix() if c.runs]
# Every backbone and every head in the cheapest paradigm, and every paradigm with one of each.
COLUMNS = [
    c
    for c in CELLS
    if (c.backbone, c.action_head) == ("toy", "mot")
    or (c.paradigm == "single_pass" and (c.backbone == "toy" or c.action_head == "mot"))
]
# Numbers on the host, and tensors made of Python's.
WAITING = ("aten._local_scalar_dense", "aten.lift_fresh", "aten.nonzero", "aten.is_nonzero")


def _name(cell: Cell) -> str:
    return f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"


class Ops(TorchDispatchMode):
    """The operations that run inside it, and the shapes of what is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.joined: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func._overloadpacket)
        self.names[name] += 1
        if name == "aten.cat":
            self.joined += [tuple(x.shape) for x in tree_leaves(out) if isinstance(x, Tensor)]
        return out


def passes_of(policy: Policy) -> list[tuple[str, Any, Ops]]:
    """kind, cache and operations of every pass of one chunk."""
    found: list[tuple[str, Any, Ops]] = []

    def around(model: Callable[..., Any], inputs: Any, cache: Any = None, keep: Any = ()) -> Any:
        with Ops() as ops:
            out = model(inputs, cache=cache, keep=keep)
        kind = "prefill" if is_prefill(inputs, keep) else ",".join(sorted(inputs.roles))
        kind += ", some of it kept" if keep and kind != "prefill" else ""
        found.append((kind, cache, ops))
        return out

    with hook_method(policy, "model", around):
        policy.act(observation(policy.spec), seed=0)
    return found


def later_steps(policy: Policy) -> list[tuple[Any, Ops]]:
    """Cache and operations of every step that is not the first of its kind with its cache."""
    met: set[tuple[str, int]] = set()
    later = []
    for kind, cache, ops in passes_of(policy):
        if kind != "prefill" and (kind, id(cache)) in met:
            later.append((cache, ops))
        met.add((kind, id(cache)))
    return later


@pytest.mark.parametrize("cell", COLUMNS, ids=_name)
def test_a_step_waits_for_nothing_and_is_the_same_work_every_time(cell: Cell) -> None:
    policy = Policy.from_spec(cell.spec)
    totals: dict[int, list[int]] = {}
    for cache, ops in later_steps(policy):
        assert not [name for name in WAITING if ops.names[name]]
        totals.setdefault(id(cache), []).append(ops.names.total())
    for counts in totals.values():
        assert len(set(counts)) == 1


@pytest.mark.parametrize("cell", COLUMNS, ids=_name)
def test_a_step_copies_no_cached_key(cell: Cell) -> None:
    for cache, ops in later_steps(Policy.from_spec(cell.spec)):
        if cache is None:
            continue
        shapes = [tuple(kv.k.shape) for layer in cache.layers for kv in layer.values()]
        for shape in ops.joined:
            assert not any(
                len(shape) == 4 and (*shape[:2], shape[3]) == (*s[:2], s[3]) and shape[2] >= s[2]
                for s in shapes
            ), f"keys {shape} were joined"


def test_more_steps_are_only_more_of_the_same() -> None:
    cell = next(c for c in COLUMNS if _name(c) == "wan-mot-single_pass")
    counts = []
    for steps in (3, 4, 5):
        action = cell.spec.schedules.action.model_copy(update={"steps": steps})
        schedules = cell.spec.schedules.model_copy(update={"action": action})
        policy = Policy.from_spec(cell.spec.model_copy(update={"schedules": schedules}))
        seen = observation(policy.spec)
        policy.act(seen, seed=0)  # brings the levels to the device
        with Ops() as ops:
            policy.act(seen, seed=0)
        counts.append(ops.names.total())
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


def test_a_step_writes_its_keys_where_those_of_the_last_one_were() -> None:
    cell = next(c for c in COLUMNS if _name(c) == "toy-mot-single_pass")
    policy, places = Policy.from_spec(cell.spec), []

    def around(model: Callable[..., Any], inputs: Any, cache: Any = None, keep: Any = ()) -> Any:
        out = model(inputs, cache=cache, keep=keep)
        if cache is not None:
            bound = [found[2] for found in cache.derived.values()]
            keys = [k for layers in bound for layer in layers for k in layer if k.k is not None]
            places.append([(k.k.data_ptr(), k.v.data_ptr()) for k in keys])
        return out

    with hook_method(policy, "model", around):
        policy.act(observation(policy.spec), seed=0)
    assert len(places) > 1 and places[0] and all(rooms == places[0] for rooms in places)


def test_levels_are_brought_to_the_device_once() -> None:
    level = Level((1.0, 0.5, 0.0), 1)
    device = torch.device("cpu")
    LevelTable.of([(level, 4)], 2, device)
    with Ops() as ops:
        sigmas, index, table, _ = LevelTable.of([(level, 4)], 2, device)
    assert not ops.names["aten.lift_fresh"]
    assert sigmas.tolist() == [1, 0.5, 0] and index.tolist() == [[1]] and table == level.table


@pytest.mark.parametrize("cell", [c for c in COLUMNS if c.action_head == "mot"], ids=_name)
def test_noise_levels_are_embedded_once_for_a_schedule(cell: Cell) -> None:
    policy, seen = Policy.from_spec(cell.spec), observation(cell.spec)
    embedder = getattr(policy.action_head.condition_embedder, "time_embedder", None)
    assert isinstance(embedder, nn.Module)
    met: list[tuple[int, ...]] = []
    embedder.register_forward_hook(lambda _, given, out: met.append(tuple(given[0].shape)))
    policy.act(seen, seed=0)
    assert met and all(rows[0] > 1 for rows in met)  # all levels of a run at once
    del met[:]
    policy.act(seen, seed=1)
    assert not met


@pytest.mark.parametrize("cell", [c for c in COLUMNS if c.backbone == "toy"], ids=_name)
@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
def test_levels_that_are_looked_up_give_the_same_chunk(cell: Cell, solver: str) -> None:
    action = cell.spec.schedules.action.model_copy(update={"solver": solver, "steps": 4})
    schedules = cell.spec.schedules.model_copy(update={"action": action})
    policy = Policy.from_spec(cell.spec.model_copy(update={"schedules": schedules}))
    seen = observation(policy.spec)
    fast = policy.act(seen, seed=0).values
    policy.runner.sharded = True  # blocks compute their own conditioning when they run
    same_values(fast, policy.act(seen, seed=0).values)


def test_a_level_of_a_run_stays_one_until_it_is_replaced() -> None:
    from wamkit.config.noise_schedule import ScheduleConfig
    from wamkit.engine.noise_schedule import NoiseSchedule

    sampler = NoiseSchedule(ScheduleConfig(steps=3)).init_sampler(torch.zeros(2, 4, 3))
    text = Text(torch.zeros(2, 1, 4))
    inputs = ModelInputs(text, action=NoisyVectors(sampler.x, torch.ones(2))).put(
        "action", sampler.x, sampler.level
    )
    action = inputs.noisy("action")
    assert action.level == sampler.level and action.sigma.tolist() == [[sampler.sigma]] * 2
    other = inputs.put("action", sampler.x, torch.full((2,), 0.3)).noisy("action")
    assert isinstance(other.level, Tensor) and other.sigma.shape == (2, 1)
    assert inputs.pick(torch.tensor([1, 0, 1])).noisy("action").level == sampler.level


def test_levels_of_several_runs_share_one_table() -> None:
    action, video = (1.0, 0.5, 0.0), (0.9, 0.0)
    clean = Level((0.0,))
    table, index = index_levels([clean, Level(video, 0), Level(action, 1), Level(video, 0)])
    assert table == (0.0, *video, *action) and index == (0, 1, 4, 1)
    later, moved = index_levels([clean, Level(video, 1), Level(action, 2), Level(video, 1)])
    assert later == table and moved == (0, 2, 5, 2)
    assert index_levels([Level(action, 1)] * 3) == (action, (1,))


def test_a_long_run_has_tables_of_bounded_length() -> None:
    levels = tuple(1 - i / 200 for i in range(200))
    for i in (0, 63, 64, 199):
        level = level_in_run(levels, i)
        assert level.sigma == levels[i] and len(level.table) <= MAX_LEVELS


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (2, 1, 5, 4)])
def test_pairs_turn_alike_however_they_lie_in_memory(shape: tuple[int, ...]) -> None:
    odd = torch.randn(2, 3, 5, 9)[..., :8]  # such rows are no complex numbers
    cos, sin = torch.randn(shape), torch.randn(shape)
    rotary = RotaryEmbedding(cos, sin, torch.complex(cos, sin))
    expected = rotate_pairs(odd, rotary)
    same_values(rotate_pairs(odd.contiguous(), rotary), expected)
    by_token = odd.transpose(1, 2).contiguous().transpose(1, 2)
    found = rotate_pairs(by_token, rotary)
    same_values(found, expected)
    assert found.stride() == by_token.stride()


OPERATIONS = 90
"""Of one layer of a step: a block of mot's own that reads words by cross-attention, on a CPU."""


@pytest.mark.parametrize("backbone", ["wan", "toy"])
def test_a_step_stays_within_its_number_of_operations(backbone: str) -> None:
    cell = next(c for c in COLUMNS if _name(c) == f"{backbone}-mot-single_pass")
    _, ops = later_steps(Policy.from_spec(cell.spec))[0]
    assert ops.names.total() <= OPERATIONS * cell.spec.backbone.traits.depth + 20

"""What the step loop does not do: wait, copy what it knows, build tensors, grow with its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wamkit.bench.taps import tapped
from wamkit.compositions import Cell, matrix
from wamkit.interfaces.action_head import is_prefill
from wamkit.policy import Policy
from wamkit.trial import observation

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

    def around(model: Callable[..., Any], scene: Any, cache: Any = None, keep: Any = ()) -> Any:
        with Ops() as ops:
            out = model(scene, cache=cache, keep=keep)
        kind = "prefill" if is_prefill(scene, keep) else ",".join(sorted(scene.roles))
        found.append((kind, cache, ops))
        return out

    with tapped(policy, "model", around):
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

    def around(model: Callable[..., Any], scene: Any, cache: Any = None, keep: Any = ()) -> Any:
        out = model(scene, cache=cache, keep=keep)
        if cache is not None:
            places.append([(room.k.data_ptr(), room.v.data_ptr()) for room in cache._room.values()])
        return out

    with tapped(policy, "model", around):
        policy.act(observation(policy.spec), seed=0)
    assert len(places) > 1 and places[0] and all(rooms == places[0] for rooms in places)


def test_levels_are_brought_to_the_device_once() -> None:
    from wamkit.schedule import NoiseSchedule
    from wamkit.schedules import ScheduleConfig

    flow = NoiseSchedule(ScheduleConfig(steps=3))
    flow.start(torch.zeros(2, 4))
    with Ops() as ops:
        run = flow.start(torch.zeros(2, 4))
    assert not ops.names["aten.lift_fresh"] and run.sigma.shape == (2,)

"""Nothing that stays the same over the steps of a chunk is computed in every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wamkit.config.compositions import Cell, matrix
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation

STEPS = 5
CELLS = [
    cell
    for cells in (matrix((), ("mot",), ("joint",)), matrix(("toy",), (), ("joint", "single_pass")))
    for cell in cells
    if cell.runs
]


@pytest.mark.parametrize(
    "cell", CELLS, ids=lambda cell: f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"
)
def test_no_layer_reads_the_same_in_every_step(cell: Cell) -> None:
    schedules = cell.spec.schedules
    more = {
        name: flow.model_copy(update={"steps": STEPS})
        for name in ("video", "action")
        if (flow := getattr(schedules, name)) is not None
    }
    spec = cell.spec.model_copy(update={"schedules": schedules.model_copy(update=more)})
    policy, found = Policy.from_spec(spec), Counter[tuple[Any, ...]]()

    def watch(name: str, layer: nn.Linear) -> None:
        def note(_: nn.Module, args: tuple[Tensor]) -> None:
            x = args[0].double()
            found[name, tuple(x.shape), x.sum().item(), x.square().sum().item()] += 1

        layer.register_forward_pre_hook(note)

    for kind in ("backbone", "action_head"):
        for name, layer in getattr(policy, kind).named_modules():
            if isinstance(layer, nn.Linear):
                watch(f"{kind}.{name}", layer)
    with torch.no_grad():
        policy.act(observation(spec), seed=0)
    # Once for what is passed first and remembered, and once for all steps.
    assert found and not {key[0]: times for key, times in found.items() if times > 2}

"""Every composition that says it takes a prefix begins its chunk with it."""

from __future__ import annotations

import pytest
import torch

from wamkit.config.compositions import Cell, matrix
from wamkit.config.prefix import MODES, mode_refusal
from wamkit.policy.action_prefix import ActionPrefix, add_prefix
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import observation
from wamkit.testing.tolerance import same_values

CELLS = [cell for cell in matrix() if cell.runs and cell.backbone == "toy"]


def _name(cell: Cell) -> str:
    return f"{cell.action_head}-{cell.paradigm}"


@pytest.mark.parametrize("cell", CELLS, ids=_name)
def test_a_cell_begins_its_chunk_with_a_prefix(cell: Cell) -> None:
    spec = cell.spec
    assert spec is not None
    actions = spec.actions.model_copy(update={"max_delay": 2})
    mode = next((m for m in MODES if m != "guided" and mode_refusal(spec, m) is None), None)
    if mode is None:
        assert spec.action_head.is_regression
        return
    policy = Policy.from_spec(spec.model_copy(update={"actions": actions}))
    seen = observation(spec, batch=1)
    values = torch.linspace(-0.5, 0.5, 2 * spec.actions.size).view(1, 2, -1)
    given = ActionPrefix(values, mode=mode)
    inputs = inference_inputs(policy, seen, with_future=policy.paradigm.needs_future)
    inputs = add_prefix(policy, inputs, given, seen)
    out = policy.action_head.from_latent("action", policy.sample(inputs, seed=0).action)
    assert out.isfinite().all()
    same_values(out[:, :2], policy.actions.encode_executed(values, seen.state), 1e-4, scale=1.0)

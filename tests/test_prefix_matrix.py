"""Compositions begin their chunk with a prefix, in every mode that they say they take."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from wamkit.config.compositions import Cell, matrix
from wamkit.config.prefix import FEWEST_STEPS, MODES, mode_refusal
from wamkit.config.spec import PolicySpec
from wamkit.policy.action_prefix import ActionPrefix, add_prefix
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import observation, with_overrides
from wamkit.testing.tolerance import same_values

RUNNING = [cell for cell in matrix() if cell.runs]


def _chosen() -> list[Cell]:
    """All of toy, and of every other backbone one for each action head, the paradigms in turn."""
    pairs = defaultdict[tuple[str, str], list[Cell]](list)
    for cell in RUNNING:
        pairs[cell.backbone, cell.action_head].append(cell)
    found = []
    for turn, ((backbone, _), cells) in enumerate(pairs.items()):
        found += cells if backbone == "toy" else [cells[turn % len(cells)]]
    return found


CELLS = _chosen()


def _name(cell: Cell) -> str:
    return f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"


def _spec(cell: Cell) -> PolicySpec:
    """With enough solver steps for a correction, and delays that are learned where they can be."""
    assert cell.spec is not None
    if cell.spec.action_head.is_regression:
        return cell.spec
    steps = max(FEWEST_STEPS, cell.spec.schedules.action.steps)
    spec = with_overrides(cell.spec, f"schedules.action.steps={steps}")
    actions = spec.actions.model_copy(update={"max_delay": 2})
    return spec.model_copy(update={"actions": actions})


def _modes(spec: PolicySpec) -> list[str]:
    return [mode for mode in MODES if mode_refusal(spec, mode) is None]


@pytest.mark.parametrize("cell", CELLS, ids=_name)
def test_a_cell_begins_its_chunk_with_a_prefix_of_every_mode(cell: Cell) -> None:
    spec = _spec(cell)
    modes = _modes(spec)
    if not modes:
        assert spec.action_head.is_regression
        return
    policy = Policy.from_spec(spec)
    seen = observation(spec, batch=1)
    values = torch.linspace(-0.5, 0.5, 2 * spec.actions.size).view(1, 2, -1)
    wanted = policy.actions.encode_executed(values, seen.state)
    plain = inference_inputs(policy, seen, with_future=policy.paradigm.needs_future)

    def begin(given: ActionPrefix | None) -> torch.Tensor:
        inputs = plain if given is None else add_prefix(policy, plain, given, seen)
        action = policy.sample(inputs, seed=0).action
        return policy.action_head.from_latent("action", action)[:, :2]

    for mode in modes:
        found = begin(ActionPrefix(values, mode=mode))  # type: ignore[arg-type]
        assert found.isfinite().all()
        if mode == "guided":  # a correction, which brings it nearer
            assert (found - wanted).norm() < 0.5 * (begin(None) - wanted).norm()
        else:
            same_values(found, wanted, 1e-4, scale=1.0)


def test_the_chosen_cells_have_every_part_and_mode() -> None:
    for kind in ("backbone", "action_head", "paradigm"):
        assert {getattr(cell, kind) for cell in CELLS} == {getattr(cell, kind) for cell in RUNNING}
    pairs = {(cell.backbone, cell.action_head) for cell in RUNNING}
    assert {(cell.backbone, cell.action_head) for cell in CELLS} == pairs
    heads = {cell.action_head: set(_modes(_spec(cell))) for cell in CELLS}
    assert heads["mot"] == set(MODES) and heads["latent_slot"] == {"guided", "freeze"}

"""Every registered backbone with every action head and paradigm: it runs, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wamkit.config.compositions import Cell, matrix
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.batch_independence import expect_batch_independent
from wamkit.testing.fixtures import batch_of, observation, randomize_weights
from wamkit.testing.parity import same_values
from wamkit.testing.uncached import uncached

CELLS = list(matrix())


def _name(cell: Cell) -> str:
    return f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"


@pytest.mark.parametrize("cell", [c for c in CELLS if c.runs], ids=_name)
def test_it_acts_trains_caches_reloads_and_ignores_the_batch(cell: Cell, tmp_path: Path) -> None:
    policy = Policy.from_spec(cell.spec)
    seen = observation(cell.spec)
    chunk = policy.act(seen, seed=0)
    actions = cell.spec.actions
    assert chunk.values.shape == (2, actions.chunk_size, actions.size)
    assert chunk.values.isfinite().all()

    with torch.no_grad():
        inputs = inference_inputs(policy, seen)
        slow = policy.paradigm.act(
            uncached(policy.model), inputs, policy.schedules, generator(0)
        ).action
        fast = policy.paradigm.act(policy.model, inputs, policy.schedules, generator(0)).action
    same_values(fast, slow)
    if not policy.paradigm.needs_future:  # then there was no room for a future
        assert torch.equal(
            policy.to_action_chunk(policy.sample(inputs, seed=0), seen).values, chunk.values
        )

    again = Policy.load(policy.save(tmp_path / "policy"))
    assert torch.equal(again.act(seen, seed=0).values, chunk.values)

    policy.train().loss(batch_of(cell.spec), seed=0).total.backward()
    for part in (policy.action_head, policy.backbone):
        grads = [p.grad for p in part.parameters() if p.grad is not None]  # type: ignore[attr-defined]
        assert grads and all(bool(g.isfinite().all()) for g in grads)
        assert any(bool(g.any()) for g in grads)

    expect_batch_independent(randomize_weights(policy))


# Why something cannot be: the heart of each reason that a registered part gives.
IMPOSSIBLE = (
    "only reads the video and exposes no tokens",  # so nothing can be conditioned on its actions
    "predicts vectors at once:",  # proposals without noise are one proposal
    "predicts vectors without reading any",  # so it cannot tell what follows from them
    "none is left to imagine",  # a vision encoder has no future
    "the instruction would change nothing",  # neither backbone nor head reads words
    "no velocity",  # a vision encoder predicts none that slots could be read from
)


def test_refusals_are_of_what_is_impossible_and_each_has_a_hint() -> None:
    for cell in CELLS:
        for conflict in cell.conflicts:
            assert any(why in conflict.why for why in IMPOSSIBLE), f"{_name(cell)}: {conflict}"
            assert conflict.hint and not conflict.missing


def test_the_matrix_has_every_registered_part() -> None:
    from wamkit.config.registry import registry

    names = {kind: set(registry().names(kind)) for kind in ("backbone", "action_head", "paradigm")}
    assert {c.backbone for c in CELLS} == names["backbone"]
    assert {c.action_head for c in CELLS} == names["action_head"]
    assert {c.paradigm for c in CELLS} == names["paradigm"]
    assert len(CELLS) == len({_name(c) for c in CELLS})

"""Observations that come late, twice or not at all, of another episode; chunks with a prefix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wamkit.config.registry import registry
from wamkit.errors import WamkitError
from wamkit.interfaces.types import ModelInputs, ParadigmOutput
from wamkit.policy.action_prefix import ActionPrefix
from wamkit.policy.moments import Moment, arrival
from wamkit.policy.policy import Policy
from wamkit.policy.session import Session
from wamkit.testing.fixtures import observation, spec_with, with_overrides
from wamkit.testing.tolerance import same_values


def policy_for(paradigm: str) -> Policy:
    chosen = registry().get("paradigm", paradigm)()  # type: ignore[call-arg]
    spec = spec_with(chosen, backbone="toy", action_head="mot")
    return Policy.from_spec(with_overrides(spec, "actions.max_delay=2"))


def seen_by(session: Session, seed: int) -> Any:
    return observation(session.policy.spec, frames=session.num_images, seed=seed)


def test_observations_differ_by_the_actions_executed_between_them() -> None:
    last = Moment(8)
    assert arrival(Moment(0), None, 4) == "first"
    assert arrival(Moment(12), last, 4) == "next" == arrival(Moment(10), last, None)
    assert arrival(Moment(10), last, 4) == "early"
    assert arrival(Moment(16), last, 4) == "dropped"
    assert arrival(Moment(8), last, 4) == "repeated"
    assert arrival(Moment(4), last, 4) == "late"
    assert arrival(Moment(0, "again"), last, 4) == "reset"


def test_a_policy_with_memory_refuses_what_would_spoil_it() -> None:
    policy = policy_for("autoregressive")
    session, n = policy.session(), policy.spec.actions.chunk_size
    session.act(seen_by(session, 0), moment=Moment(0), seed=0)
    for step, message in (
        (0, "the observation of step 0 again"),
        (n - 1, "an early observation"),
        (2 * n, "a dropped frame"),
    ):
        with pytest.raises(WamkitError, match=message):
            session.act(seen_by(session, 1), moment=Moment(step), seed=1)
    chunk = session.act(seen_by(session, 1), moment=Moment(n), seed=1).values
    with pytest.raises(WamkitError, match=f"a late observation: of step {n - 1}"):
        session.act(seen_by(session, 2), moment=Moment(n - 1), seed=1)
    plain = policy.session()
    plain.act(seen_by(plain, 0), seed=0)
    same_values(chunk, plain.act(seen_by(plain, 1), seed=1).values, 1e-6)


def test_an_observation_of_another_episode_begins_it() -> None:
    policy = policy_for("autoregressive")
    session = policy.session()
    first = session.act(seen_by(session, 0), moment=Moment(0, "a"), seed=0).values
    new = observation(policy.spec, frames=policy.spec.video.num_observed, seed=0)
    again = session.act(new, moment=Moment(0, "b"), seed=0).values
    assert torch.equal(first, again)


def test_a_policy_without_memory_refuses_late_observations_alone() -> None:
    session = policy_for("single_pass").session()
    for step in (0, 3, 3, 20):
        session.act(seen_by(session, step), moment=Moment(step), seed=0)
    with pytest.raises(WamkitError, match="a late observation") as refused:
        session.act(seen_by(session, 1), moment=Moment(19), seed=0)
    assert "newest" in str(refused.value.hint)
    session.reset()
    session.act(seen_by(session, 1), moment=Moment(0), seed=0)


@pytest.mark.parametrize("paradigm", ["single_pass", "autoregressive"])
def test_a_chunk_that_was_computed_while_the_episode_was_reset_is_not_returned(
    paradigm: str,
) -> None:
    policy = policy_for(paradigm)
    session, sample = policy.session(), policy.sample

    def interrupted(inputs: ModelInputs, **given: Any) -> ParadigmOutput:
        out = sample(inputs, **given)
        session.reset()
        return out

    policy.sample = interrupted  # type: ignore[method-assign]
    with pytest.raises(WamkitError, match="reset while this chunk was computed"):
        session.act(seen_by(session, 0), seed=0)
    policy.sample = sample  # type: ignore[method-assign]
    fresh = policy.session()
    expected = fresh.act(seen_by(fresh, 1), seed=1).values
    assert torch.equal(session.act(seen_by(session, 1), seed=1).values, expected)


def test_the_memory_takes_what_was_executed_and_that_begins_with_the_prefix() -> None:
    """Left out, `executed` are the actions of the chunk: those of the delay as they were made."""
    policy = policy_for("autoregressive")
    values = torch.full((2, 2, policy.spec.actions.size), 0.25)
    written = []
    for executed in (None, "chunk", "other"):
        session = policy.session()
        given = ActionPrefix(values, mode="trained")
        chunk = session.act(seen_by(session, 0), prefix=given, seed=0).values
        assert torch.equal(chunk[:, :2], values)
        done = {None: None, "chunk": chunk, "other": chunk + 0.5}[executed]
        written.append(session.act(seen_by(session, 1), done, seed=1).values)
    assert torch.equal(written[0], written[1])
    assert not torch.equal(written[0], written[2])

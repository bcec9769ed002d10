"""Contract tests of a whole policy around a part; `wamkit.testing` runs POLICY on every part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..policy.policy import Policy
from .batch_independence import expect_batch_independent
from .fixtures import batch_of, observation, randomize_weights, run_paradigm
from .tolerance import other_values, same_values
from .uncached import uncached


def acts_reproducibly(spec: PolicySpec, tmp: Path) -> None:
    """The same seed gives the same chunk; another seed another one, if the head looks at noise."""
    policy, seen = Policy.from_spec(spec), observation(spec)
    one, two = policy.act(seen, seed=0).values, policy.act(seen, seed=0).values
    assert one.shape == (2, spec.actions.chunk_size, len(spec.actions.executed))
    assert one.isfinite().all()
    assert torch.equal(one, two)
    other = policy.act(seen, seed=1).values
    if not spec.action_head.is_regression:
        other_values(other, one, 1e-4)


def goes_on_through_an_episode(spec: PolicySpec, tmp: Path) -> None:
    """Chunk after chunk with memory, reproducible from the same seeds."""
    policy, episodes = Policy.from_spec(spec), []
    assert policy.paradigm.stateful == spec.paradigm.stateful
    for _ in range(2):
        session, values = policy.session(), []
        for k in range(3):
            seen = observation(spec, frames=session.num_images, seed=k)
            values.append(session.act(seen, seed=k).values)
        episodes.append(torch.stack(values))
    assert episodes[0].isfinite().all() and torch.equal(*episodes)


@torch.no_grad()
def acts_the_same_without_a_cache(spec: PolicySpec, tmp: Path) -> None:
    """Cached tensors equal those that every pass would compute.

    Not where stages see keys that are older than they (`Stage.kept`), as the paradigm wants it.
    """
    if any(stage.kept for stage in spec.paradigm.program(spec)):
        return
    policy = randomize_weights(Policy.from_spec(spec))
    fast, slow = run_paradigm(policy), run_paradigm(policy, uncached(policy.model))
    same_values(fast.action, slow.action)


def acts_the_same_with_fused_layers(spec: PolicySpec, tmp: Path) -> None:
    """Layers computed as one change no number and no weight that is saved."""
    policy, seen = Policy.from_spec(spec), observation(spec)
    rng = torch.Generator().manual_seed(2)
    for p in policy.parameters():  # zeros would hide everything
        inputs = p[0].numel() if p.ndim else 1
        p.data = p.data + torch.randn(p.shape, generator=rng) * 0.3 / max(1, inputs) ** 0.5
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    apart = policy.train().act(seen, seed=0).values
    same_values(policy.eval().act(seen, seed=0).values, apart)
    expected_fused = any(getattr(type(module), "fuse_groups", ()) for module in policy.modules())
    assert bool(policy._fused_layers) == expected_fused
    after = policy.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def samples_are_independent_of_the_batch(spec: PolicySpec, tmp: Path) -> None:
    """Chunk, imagined frames and losses of a sample do not depend on the rest of its batch."""
    expect_batch_independent(randomize_weights(Policy.from_spec(spec)))


def learns(spec: PolicySpec, tmp: Path) -> None:
    """A loss is finite, and its gradient reaches the backbone, and the head if it has weights."""
    policy = Policy.from_spec(spec).train()
    losses = policy.loss(batch_of(spec), seed=0)
    losses.total.backward()
    for kind in ("action_head", "backbone"):
        learned = list(getattr(policy, kind).parameters())
        grads = [p.grad for p in learned if p.grad is not None]
        assert grads or not learned, f"no gradient in the {kind}"
        assert all(bool(g.isfinite().all()) for g in grads), f"a gradient of the {kind} is endless"


def comes_back_from_a_folder(spec: PolicySpec, tmp: Path) -> None:
    """Saved and loaded, it gives the same chunk."""
    policy, seen = Policy.from_spec(spec), observation(spec)
    again = Policy.load(policy.save(tmp / "policy"))
    assert again.spec == spec
    assert torch.equal(policy.act(seen, seed=0).values, again.act(seen, seed=0).values)


def imagines(spec: PolicySpec, tmp: Path) -> None:
    """The imagined clip has the images the spec asks for, in range."""
    if not spec.backbone.traits.imagines:
        return
    out = Policy.from_spec(spec).imagine(observation(spec), seed=0)
    assert out.canvas.shape == (2, 3, spec.video.num_frames, *spec.cameras.canvas)
    assert out.canvas.abs().max() <= 1 and set(out.views) == {"front"}


def imagines_what_follows_from_given_actions(spec: PolicySpec, tmp: Path) -> None:
    """Frames of a future depend on the given actions and the seed alone; observed ones on neither.

    A policy whose imagined frames do not depend on actions says why, and what to change.
    """
    if not spec.backbone.traits.imagines or not spec.latent_frames[1]:
        return
    policy, seen = randomize_weights(Policy.from_spec(spec)), observation(spec)
    rng = torch.Generator().manual_seed(3)
    shape = (seen.batch, spec.actions.chunk_size, spec.actions.size)
    given, others = torch.rand(2, *shape, generator=rng) - 0.5
    if (conflict := spec.paradigm.conflict_with_given_actions(spec)) is not None:
        assert conflict.why and conflict.hint
        try:
            policy.imagine(seen, actions=given, seed=0)
        except WamkitError as error:
            assert (error.what, error.hint) == (conflict.why, conflict.hint)
            return
        raise AssertionError(f"given actions are refused by no error: {conflict.why}")
    one = policy.imagine(seen, actions=given, seed=0)
    again = policy.imagine(seen, actions=given, seed=0)
    other = policy.imagine(seen, actions=others, seed=0)
    assert one.canvas.shape == (2, 3, spec.video.num_frames, *spec.cameras.canvas)
    assert one.canvas.isfinite().all() and one.canvas.abs().max() <= 1
    assert one.observed == spec.video.num_observed and set(one.views) == {"front"}
    if one.value is not None:
        assert one.value.shape == (2,) and one.value.abs().max() <= 1
    if one.next_state is not None:
        assert one.next_state.shape == (2, spec.state.size) and one.next_state.isfinite().all()
    for first, second in ((one.value, again.value), (one.next_state, again.next_state)):
        assert (first is None) == (second is None)
        assert first is None or second is None or torch.equal(first, second)
    assert torch.equal(one.canvas, again.canvas)
    start = one.canvas[:, :, : one.observed]
    same_values(other.canvas[:, :, : one.observed], start)
    other_values(other.canvas[:, :, one.observed :], one.canvas[:, :, one.observed :], 1e-5)


POLICY: Sequence[Callable[[PolicySpec, Path], None]] = (
    acts_reproducibly,
    goes_on_through_an_episode,
    acts_the_same_without_a_cache,
    acts_the_same_with_fused_layers,
    samples_are_independent_of_the_batch,
    learns,
    comes_back_from_a_folder,
    imagines,
    imagines_what_follows_from_given_actions,
)
"""The checks that hold for every policy."""

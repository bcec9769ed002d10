"""Contract tests of real-time chunking: a chunk that begins with what is decided already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config.prefix import MODES, mode_refusal
from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..policy.action_prefix import ActionPrefix, add_prefix
from ..policy.observation import Observation
from ..policy.policy import Policy
from ..policy.prefix_model import with_prefix
from ..policy.preprocessing import inference_inputs
from .fixtures import batch_of, observation, randomize_weights
from .tolerance import other_values, same_values
from .uncached import uncached

DELAY = 2


def _with_delay(spec: PolicySpec) -> PolicySpec:
    """The spec as if it had learned a prefix, if its parts can."""
    if mode_refusal(spec, "trained") is not None:
        return spec
    return spec.model_copy(update={"actions": spec.actions.model_copy(update={"max_delay": DELAY})})


def _normalized(policy: Policy, seen: Observation, prefix: ActionPrefix, model: bool) -> Tensor:
    """The normalized chunk [B, N, A] that continues the prefix, with caches or without."""
    inputs = inference_inputs(policy, seen, with_future=policy.paradigm.needs_future)
    inputs = add_prefix(policy, inputs, prefix, seen)
    if model:
        out = policy.sample(inputs, seed=0)
    else:
        rng, bare = torch.Generator().manual_seed(0), with_prefix(uncached(policy.model))
        out = policy.paradigm.act(bare, inputs, policy.schedules, rng)
    return policy.action_head.from_latent("action", out.action)


@torch.no_grad()
def continues_a_chunk(spec: PolicySpec, tmp: Path) -> None:
    """In every mode that the parts take, a chunk begins with its prefix; the rest follows it.

    An empty prefix changes nothing, and a mode that they do not take is refused with a cure.
    """
    spec = _with_delay(spec)
    policy, seen = randomize_weights(Policy.from_spec(spec)), observation(spec)
    plain = policy.act(seen, seed=0).values
    values = 0.5 * policy.act(seen, seed=1).values
    for mode in MODES:
        empty = ActionPrefix(values[:, :0], mode=mode)
        prefix = ActionPrefix(values[:, : DELAY + 2], DELAY, mode)
        if (refusal := mode_refusal(spec, mode)) is not None:
            try:
                policy.act(seen, prefix=prefix, seed=0)
            except WamkitError as error:
                assert (error.what, error.hint) == refusal
                continue
            raise AssertionError(f"mode {mode} is refused by no error: {refusal[0]}")
        assert torch.equal(policy.act(seen, prefix=empty, seed=0).values, plain)
        found = _normalized(policy, seen, prefix, model=True)
        free = _normalized(policy, seen, empty, model=True)
        held = policy.actions.encode_executed(prefix.values, seen.state)
        if mode == "guided":
            apart, without = (float((x[:, :DELAY] - held[:, :DELAY]).norm()) for x in (found, free))
            assert apart < without, f"{apart:.3f} from the prefix, {without:.3f} without guidance"
        else:
            same_values(found[:, :DELAY], held[:, :DELAY], 1e-4, scale=1.0)
        if mode != "freeze":
            other_values(found[:, DELAY:], free[:, DELAY:], 1e-5)
        if mode == "trained" and not any(stage.kept for stage in spec.paradigm.program(spec)):
            same_values(found, _normalized(policy, seen, prefix, model=False))


def learns_from_a_prefix(spec: PolicySpec, tmp: Path) -> None:
    """The loss of a sample with a clean prefix is finite, and reaches the weights."""
    if mode_refusal(spec, "trained") is not None:
        return
    policy = Policy.from_spec(_with_delay(spec)).train()
    losses = policy.loss(batch_of(policy.spec), seed=0)
    losses.total.backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    assert grads and all(bool(g.isfinite().all()) for g in grads)


PREFIX: Sequence[Callable[[PolicySpec, Path], None]] = (continues_a_chunk, learns_from_a_prefix)
"""The checks that hold for every policy whose actions are denoised."""

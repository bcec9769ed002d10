"""The contract of imported policies: they act, survive saving, learn on, and act again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..policy.observation import random_observation
from ..policy.policy import Policy
from .dataset import record
from .training import short_run


def expect_acts_and_learns(
    policy: Policy, folder: Path, *, prompt: str = "test", steps: int = 2
) -> None:
    """Raise AssertionError unless an imported policy saves, loads, learns and acts.

    Args:
        policy: As an import made it.
        folder: For its copies and a run of `steps` updates on a small made-up data set.
        prompt: The instruction, if the text encoder knows only some.
        steps: Updates of the run.
    """
    observation = replace(random_observation(policy.spec, batch=1), prompt=[prompt])
    chunk = policy.act(observation, seed=1).values
    again = Policy.load(policy.save(folder / "saved"))
    assert torch.equal(again.act(observation, seed=1).values, chunk), "it acts differently saved"
    spec = policy.spec
    frames = spec.steps + spec.video.frame_stride * spec.video.num_observed + 4
    data = record(
        folder / "data",
        spec,
        episodes=2,
        frames=frames,
        size=(16, 16),
        image_format="image",
        prompt=prompt,
    )
    short_run(again, data, folder / "run", steps=steps, batch_size=1, save_every=steps)
    learned = Policy.load(folder / "run" / "checkpoints" / "last" / "policy")
    found = learned.act(observation, seed=1).values
    assert found.shape == chunk.shape
    assert bool(found.isfinite().all()), "after it learned, its actions are not finite"
    assert not torch.equal(found, chunk), "it did not learn"

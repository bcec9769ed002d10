"""What one learns: how a policy learns: one loss, one backward pass, and a loop of ten lines.

The task is in toy_task.py: a dot is to go to a target, and the right velocities are known. The
policy sees an image, its own place and a prompt. In training it is also shown the image to
come: it learns to denoise that next to the actions, which is what makes it a world-action model.
So small a network, so briefly trained, imagines little but noise. Whether the attempt helps it to
act all the same is the question of 05_video_helps.py.

    python examples/04_train_toy.py --out figures     # writes figures/loss.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from toy_task import SIZE, SPEC, Demonstrations, demonstrations, learn

import wamkit
from wamkit.files.plots import lines, style, write


def error(policy: wamkit.Policy, data: Demonstrations) -> float:
    """How far from the right way the dot is on average, in fields, when the policy steers."""
    chunk = policy.act(data.observation(), seed=0)  # values [B, 8, 2]
    return float(data.errors(chunk.values).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and say what became of the error."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(), help="folder for loss.svg")
    options.add_argument("--steps", type=int, default=500, help="of training")
    options.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    given = options.parse_args(arguments)
    steps, size = (10, 16) if given.quick else (given.steps, 256)

    policy = wamkit.build(SPEC)
    practice, test = demonstrations(4096, seed=0), demonstrations(size, seed=1)  # no task in both
    weights = sum(p.numel() for p in policy.parameters())
    print(f"{weights:,} weights, {len(practice.actions)} demonstrations of {SIZE} x {SIZE} pixels")

    # One step by hand. The paradigm draws a noise level for the actions and one for the image to
    # come, one pass predicts both velocities, and the loss is how wrong they are.
    loss = policy.loss(practice.batch(torch.arange(32)), seed=0)
    print("first loss:", ", ".join(f"{part} {value:.3f}" for part, value in loss.parts.items()))
    loss.total.backward()  # every weight has its gradient now; an optimizer does the rest
    policy.zero_grad()

    # Two errors to compare with: staying where it is, and the policy before it has learned.
    still = test.errors(torch.zeros_like(test.actions)).mean()
    before = error(policy, test)

    curve = []
    for step, value in enumerate(learn(policy, practice, steps)):  # the loop is in toy_task.py
        curve.append((float(step), value))
        if step % max(1, steps // 5) == 0:
            print(f"  step {step:4}: loss {value:.3f}")

    print("distance from the right way, in fields, on tasks that it never saw:")
    print(f"  a dot that stays      {still:.3f}")
    print(f"  before training       {before:.3f}")
    print(f"  after {steps:4} steps      {error(policy, test):.3f}")
    with style():
        figure = lines({"loss": curve}, x="update", y="loss", log=True)
        print("wrote", write(given.out / "loss.svg", figure))


if __name__ == "__main__":
    main()

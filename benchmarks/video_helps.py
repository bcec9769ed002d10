"""Does learning to imagine help to act? The same demonstrations, learned with and without video.

    wamkit collect metaworld:button-press-topdown-v3 --episodes 40 --out recordings/press
    python benchmarks/video_helps.py recordings/press --env metaworld:button-press-topdown-v3

As examples/05_video_helps.py asks it of a toy, on any recorded data set. Every seed draws a few of
the episodes to learn from, first weights and noise, and a policy is trained on them both ways, for
as many updates. The rest of the episodes is held out: on them the error of a chunk is measured, the
mean distance of an action from the recorded one. With `--env` each policy also plays episodes whose
seeds no demonstration has. What counts is the mean of the differences, with video minus without,
and its 95 % interval (Student's t, pairs by seed); few demonstrations leave room to differ.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

# No torch here: the simulators' processes read this file too, and they render without it.
from wamkit.errors import WamkitError
from wamkit.simulate.env_pool import EnvPool
from wamkit.simulate.environment import choose

SPEC = Path(__file__).parent.parent / "examples" / "metaworld.toml"
WAYS = {"actions alone": "false", "with video": "true"}
FIRST = 100_000
"""The seed of the first episode that is played: far above those of any demonstration."""
# 97.5 % quantile of Student's t with n - 1 degrees of freedom, for n = 2, 3, ... runs
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def share(asked: Any, episodes: int) -> float:
    """The share of the episodes that is held out."""
    if asked.demonstrations >= episodes:
        raise WamkitError(
            f"{asked.demonstrations} of {episodes} episodes to learn from leaves none to measure",
            "take fewer --demonstrations, or collect more episodes",
        )
    return 1 - asked.demonstrations / episodes


def trained(asked: Any, seed: int, video: str, held: float) -> Any:
    """A policy that learned one way."""
    import wamkit
    from wamkit.data import Columns
    from wamkit.train import TrainConfig
    from wamkit.train.trainer import Data, train

    config = TrainConfig(
        steps=asked.steps,
        batch_size=asked.batch,
        seed=seed,
        lr=1e-3,
        schedule="one_cycle",
        warmup_ratio=0.1,
        ema=0.99,
        val_fraction=held,
        validate_every=0,
        save_every=asked.steps,
    )
    changes = [f"seed={seed}", f"paradigm.co_training={video}", *asked.set]
    policy = wamkit.build(asked.spec, changes)
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            policy, Data(asked.data, Columns()), Path(folder) / "run", config, device=asked.device
        )
        return wamkit.Policy.load(run.checkpoint / "policy", device=asked.device)


def error(asked: Any, policy: Any, seed: int, held: float) -> float:
    """Mean distance of the actions of a chunk from the recorded ones, in the units of the data."""
    import numpy as np

    from wamkit import Observation
    from wamkit.data import LeRobotFolder, Samples, collate, split

    recording, context = LeRobotFolder(asked.data), policy.spec.video.num_observed
    _, episodes = split(recording, held, seed)
    samples = Samples(recording, policy.spec, episodes=episodes)
    chosen = np.linspace(0, len(samples) - 1, min(asked.moments, len(samples))).round().astype(int)
    apart, count = 0.0, 0
    for some in np.array_split(chosen, -(-len(chosen) // 64)):
        batch = collate([samples[int(index)] for index in some])
        seen = batch.observation
        images = {view: clip[:, :context] for view, clip in seen.images.items()}
        chunk = policy.act(Observation(images, seen.prompt, seen.state), seed=0).values
        valid: Any = batch.step_valid
        apart += float((chunk - batch.actions).norm(dim=-1)[valid].sum())
        count += int(valid.sum())
    return apart / count


def success(asked: Any, policy: Any) -> float:
    """Share of the episodes in which the policy succeeds."""
    from wamkit.simulate.compatibility import views_of
    from wamkit.simulate.policy_runner import PolicyRunner
    from wamkit.simulate.rollout import evaluate

    seeds = range(FIRST, FIRST + asked.episodes)
    with EnvPool(choose(asked.env, asked.env_arg), asked.processes) as workers:
        views = views_of(policy.spec, workers.robot(), {})
        runner = PolicyRunner(policy, views, max(1, policy.spec.actions.chunk_size // 2), {})
        return mean(float(rollout.success) for rollout in evaluate(workers, seeds, runner, {}))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    return mean(values), T[len(values) - 2] * stdev(values) / len(values) ** 0.5


def verdict(measure: str, differences: Sequence[float]) -> str:
    """What the differences allow to be said, and no more."""
    middle, half = interval(differences)
    if abs(middle) <= half:
        return f"{measure}: the interval contains 0, these runs do not show a difference"
    helps = (middle < 0) is (measure == "error")
    return (
        f"{measure}: the interval leaves out 0, with video it is {'better' if helps else 'worse'}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every seed both ways, and compare."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("data", type=Path, help="folder of a LeRobot data set")
    given.add_argument("--env", help="NAME[:TASK] to play in as well")
    given.add_argument("--env-arg", nargs="*", default=[], help="KEY=VALUE of the environment")
    given.add_argument("--spec", type=Path, default=SPEC, help="of a paradigm with co_training")
    given.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of the spec")
    given.add_argument("--seeds", type=int, default=5, choices=range(2, 11), metavar="2..10")
    given.add_argument("--demonstrations", type=int, default=10, help="episodes to learn from")
    given.add_argument("--steps", type=int, default=1000, help="updates of each training")
    given.add_argument("--batch", type=int, default=64)
    given.add_argument("--moments", type=int, default=256, help="held-out moments for the error")
    given.add_argument("--episodes", type=int, default=20, help="to play with each policy")
    given.add_argument("--processes", type=int, default=2, help="simulators side by side")
    given.add_argument("--device", default="cpu", help="to train on")
    given.add_argument("--out", type=Path, help="JSON file for every number")
    asked = given.parse_args(arguments)
    from wamkit.data import LeRobotFolder

    held = share(asked, len(LeRobotFolder(asked.data).episodes))
    measures = ["error", *(["success"] if asked.env else [])]
    found: dict[str, dict[str, list[float]]] = {m: {way: [] for way in WAYS} for m in measures}
    columns = [f"{measure}, {way}" for measure in measures for way in WAYS]
    print(f"{asked.data}: {asked.demonstrations} demonstrations, {asked.steps} updates\n")
    print(f"| seed | {' | '.join(columns)} | seconds |\n" + "|---" * (len(columns) + 2) + "|")
    for seed in range(asked.seeds):
        begin = perf_counter()
        for way, video in WAYS.items():
            policy = trained(asked, seed, video, held)
            found["error"][way].append(error(asked, policy, seed, held))
            if asked.env:
                found["success"][way].append(success(asked, policy))
        cells = [f"{found[measure][way][-1]:.4f}" for measure in measures for way in WAYS]
        print(f"| {seed} | {' | '.join(cells)} | {perf_counter() - begin:.0f} |", flush=True)
    heads = (f"mean of {asked.seeds} seeds, 95 %", *WAYS, "difference")
    print(f"\n| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    differences = {}
    for measure in measures:
        alone, both = (found[measure][way] for way in WAYS)
        differences[measure] = [b - a for a, b in zip(alone, both, strict=True)]
        three = [interval(values) for values in (alone, both, differences[measure])]
        cells = [f"{middle:+.4f} ±{half:.4f}" for middle, half in three]
        print(f"| {measure} | {' | '.join(cells)} |")
    print()
    for measure, values in differences.items():
        print(verdict(measure, values))
    if asked.out:
        settings = {k: str(v) for k, v in vars(asked).items() if k != "out"}
        asked.out.write_text(
            json.dumps({"settings": settings, "found": found}, indent=1, allow_nan=False) + "\n"
        )
        print(f"wrote {asked.out}")


if __name__ == "__main__":
    try:
        main()
    except WamkitError as problem:
        raise SystemExit(str(problem)) from None

"""Time a suite's evaluation: several simulators in one batch, against one after the other.

    python benchmarks/batched_evaluation.py
    python benchmarks/batched_evaluation.py --simulators 6 --episodes 24 --rounds 5

The same episodes of one Meta-World task, with a small policy of random weights, are played by one
simulator (`wamkit eval --processes 1`), then by several, in turn, a few rounds; simulators have
processes of their own in both, and are started before the clock. The ratio is that of the median
times of a round. It says something only on a machine that does nothing else. Needs the `sim` extra.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

# What imports torch is imported where it is used: the simulators' processes import this file too.
if TYPE_CHECKING:
    from wamkit.policy.policy import Policy
    from wamkit.simulate.suite.plan import Task


def make_policy(task: Task) -> tuple[Policy, str]:
    """A policy for the task's robot, and its camera."""
    import wamkit
    from wamkit.config.spec import parse
    from wamkit.simulate import EnvPool

    with EnvPool(task.config, 1) as workers:
        robot = workers.robot()
    camera, size = next(iter(robot.cameras.items()))
    spec: dict[str, Any] = {
        "backbone": {"name": "toy", "depth": 2, "num_heads": 4, "head_dim": 32, "patch_size": 1},
        "vae": {"name": "pixel_shuffle", "strides": [1, 8, 8]},
        "text_encoder": {"name": "bytes"},
        "action_head": {"name": "mot", "width": 64, "mlp_dim": 128, "state": "token"},
        "paradigm": {"name": "single_pass"},
        "actions": {
            "chunk_size": 16,
            "control_hz": robot.control_hz,
            "groups": [{"name": "robot", "size": len(robot.actions)}],
        },
        "state": {"size": len(robot.state)},
        "cameras": {"views": [{"name": camera, "size": list(size)}]},
        "video": {"num_frames": 2, "frame_stride": 8},
        "schedules": {"action": {"steps": 4}, "video": {"steps": 4}},
    }
    return wamkit.build(parse(spec).fitted()), camera


class Player:
    """Episodes by so many simulators, with their processes."""

    def __init__(
        self, policy: Policy, camera: str, task: Task, simulators: int, episodes: int
    ) -> None:
        from wamkit.simulate import EnvPool
        from wamkit.simulate.policy_runner import PolicyRunner
        from wamkit.simulate.suite.actor import PolicyActor

        self.task, self.simulators, self.episodes = task, simulators, episodes
        runner = PolicyRunner(policy, {camera: camera}, 8, {})
        self.actor = PolicyActor(runner, [task.instruction])
        self.workers = EnvPool(task.config, simulators)
        self.play(simulators)

    def play(self, episodes: int | None = None) -> tuple[float, float]:
        """Play all episodes: seconds, and processor seconds of this process."""
        from wamkit.simulate.suite.plan import plan_episodes, queues_of
        from wamkit.simulate.suite.run import SuiteRun

        plan = plan_episodes([self.task], episodes or self.episodes, 0)
        queues = queues_of(plan, self.simulators, None)
        run = SuiteRun(self.workers, queues, self.workers.robot(), films=False)
        begun, work = time.perf_counter(), time.process_time()
        count = sum(1 for _ in run.evaluate(self.actor))
        assert count == len(plan)
        return time.perf_counter() - begun, time.process_time() - work

    def close(self) -> None:
        self.workers.__exit__(None)


def main(arguments: Sequence[str] | None = None) -> float:
    """Print a table; return the ratio."""
    import torch

    from wamkit.config.suites import Suite
    from wamkit.simulate.suite.plan import tasks_of

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="button-press-topdown-v3")
    parser.add_argument("--env", default="metaworld")
    parser.add_argument("--env-arg", action="append", default=["max_steps=100"])
    parser.add_argument("--simulators", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    suite = Suite("one task", asked.env, (asked.task,), ())
    (task,) = tasks_of(suite, [0], asked.env_arg)
    policy, camera = make_policy(task)
    players = {n: Player(policy, camera, task, n, asked.episodes) for n in (1, asked.simulators)}
    times: dict[int, list[tuple[float, float]]] = {n: [] for n in players}
    for _ in range(asked.rounds):
        for count, player in players.items():
            times[count].append(player.play())
    for player in players.values():
        player.close()
    print(f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    print("| simulators | seconds of each round | episodes a minute | of the policy's process |")
    print("| --- | --- | --- | --- |")
    middle = {count: median(wall for wall, _ in rounds) for count, rounds in times.items()}
    for count, rounds in times.items():
        walls = ", ".join(f"{wall:.1f}" for wall, _ in rounds)
        rate, work = 60 * asked.episodes / middle[count], median(work for _, work in rounds)
        print(f"| {count} | {walls} | {rate:.1f} | {work:.1f} s of processor time |")
    ratio = middle[1] / middle[asked.simulators]
    print(f"\n{asked.simulators} simulators are {ratio:.2f} times as fast as one")
    return ratio


if __name__ == "__main__":
    main()

"""What does a delay cost? Success and smoothness with late chunks, for each mode of a prefix.

    export OMP_NUM_THREADS=1
    python benchmarks/delays.py run runs/delays --env metaworld        # resumes where it stopped
    python benchmarks/delays.py run runs/delays --env pusht
    python benchmarks/delays.py report runs/delays --plot docs/delays.svg

`run` has the scripted experts play, and trains two policies for each seed from one spec: one as it
is, and one with `actions.max_delay` of the longest delay, which is drawn in half of its samples
(`actions.delay_share`). Both make the same updates. Then the world goes on while the policy
computes, for a constant number of actions: `naive` (no prefix), `freeze` and `guided` act with the
first policy, `trained` with the second. All play the same episodes.

Without a delay there is nothing to hold on to, and the first three are one policy: it is evaluated
once. Every evaluation leaves one JSON file, and what has one is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

# No torch here: the simulators' processes read this file too, and they render without it.
from made_once import made_once

from wamkit.errors import WamkitError
from wamkit.files.durable import write_text
from wamkit.files.strict_json import dumps
from wamkit.simulate.env_pool import EnvPool
from wamkit.simulate.environment import choose

SPEC = Path(__file__).parent.parent / "examples" / "metaworld.toml"
MODES = ("naive", "freeze", "guided", "trained")
CHUNK, EXECUTE = 16, 8
FIRST = 100_000
"""Seed of the first episode that is evaluated: far above those of any demonstration."""


@dataclass(frozen=True)
class World:
    """Where it is played, and what is learned from how much."""

    tasks: tuple[str, ...]
    demonstrations: int
    """Of each task."""
    limit: int
    """Steps of an episode."""
    size: int
    """Height and width of an image."""
    updates: int
    changes: tuple[str, ...] = ()
    """Of the spec."""
    noise: float = 0.1
    """Of the expert's actions, relative to half their range."""


WORLDS = {
    "metaworld": World(
        ("metaworld:button-press-topdown-v3", "metaworld:drawer-open-v3"), 20, 150, 64, 3200
    ),
    "pusht": World(
        ("pusht",),
        50,
        200,
        64,
        1600,
        (
            "actions.control_hz=10",
            'actions.groups=[{name="disk", size=2, normalization="min_max"}]',
            "state.size=2",
            'cameras.views=[{name="top", size=[64, 64]}]',
            "text_encoder.max_length=40",
        ),
        0.02,
    ),
}


def configuration(world: World, task: str) -> Any:
    """Of an environment."""
    found = [f"max_steps={world.limit}"]
    return choose(task, [*found, f"size={world.size}"] if world.changes else found)


def demonstrations(place: Path, world: World) -> Path:
    """The data set of all tasks, collected if it is not there. One process collects."""
    return made_once(place / "data", lambda part: collect_all(part, world))


def collect_all(part: Path, world: World) -> None:
    """Collect the demonstrations of all tasks in a folder."""
    from wamkit.simulate.record import collect, open_dataset

    for task in world.tasks:
        with (
            EnvPool(configuration(world, task), 1) as workers,
            open_dataset(part, workers.robot(), "image") as made,
        ):
            found = collect(workers, made, world.demonstrations, noise=world.noise)
            print(f"{task}: {found.episodes} episodes, {found.frames} frames", flush=True)


def trained(asked: Any, place: Path, world: World, seed: int, delay: int) -> Path:
    """The policy of a seed that learned delays up to `delay`; a run that stopped is resumed."""
    import wamkit
    from wamkit.config.check import check
    from wamkit.config.spec import parse, read
    from wamkit.data import Columns
    from wamkit.errors import SpecError
    from wamkit.train import TrainConfig
    from wamkit.train.trainer import Data, train

    out = place / f"policy-{seed}-{delay}"
    if out.is_dir():
        return out
    changes = [f"seed={seed}", f"actions.chunk_size={CHUNK}", f"actions.max_delay={delay}"]
    changes += ["actions.delay_share=0.5"] if delay else []
    changes += [f"video.frame_stride={CHUNK}", *world.changes]
    spec = parse(read(SPEC, changes), out.name).fitted()
    if found := check(spec):
        raise SpecError(found, out.name)
    updates = asked.updates or world.updates
    config = TrainConfig(
        steps=updates,
        batch_size=32,
        seed=seed,
        lr=1e-3,
        schedule="one_cycle",
        warmup_ratio=0.1,
        ema=0.99,
        val_fraction=0,
        validate_every=0,
        save_every=updates // 4,
    )
    run, begin = place / f"run-{seed}-{delay}", perf_counter()
    data = Data(demonstrations(place, world), Columns())
    done = train(wamkit.build(spec), data, run, config, resume=run.exists())
    if done.step < updates:
        raise WamkitError(f"{run} was stopped after {done.step} updates", "type the command again")
    wamkit.Policy.load(run / "checkpoints" / f"step-{updates:06d}" / "policy").save(out)
    print(f"{out}: {updates} updates, {perf_counter() - begin:.0f} s", flush=True)
    return out


def evaluate_mode(
    asked: Any, place: Path, workers: EnvPool, seed: int, mode: str, delay: int
) -> None:
    """Success, reward and seams of one mode with one delay, in simulators that run already."""
    file, world = place / f"eval-{seed}-{mode}-{delay}.json", WORLDS[asked.env]
    if file.is_file():
        return
    import wamkit
    from wamkit.runtime import SimulatedDelay
    from wamkit.simulate.compatibility import views_of
    from wamkit.simulate.real_time import RealTimeRunner
    from wamkit.simulate.rollout import evaluate

    longest = max(asked.delays) if mode == "trained" else 0
    policy = wamkit.Policy.load(trained(asked, place, world, seed, longest))
    hz = policy.spec.actions.control_hz

    def late(_: int) -> SimulatedDelay:
        return SimulatedDelay(max(0.0, (delay - 0.5) / hz))

    prefix = None if mode == "naive" or not delay else mode
    played: list[tuple[bool, float]] = []
    seams: list[dict[str, Any]] = []
    begin = perf_counter()
    for task in world.tasks:
        views = views_of(policy.spec, workers.switch(configuration(world, task)), {})
        runner = RealTimeRunner(policy, views, EXECUTE, {}, late, prefix=prefix)
        seeds = range(FIRST, FIRST + asked.episodes // len(world.tasks))
        done = sorted(evaluate(workers, seeds, runner, {}), key=lambda one: one.seed)
        played += [(one.success, one.total / one.steps) for one in done]
        seams.append(asdict(runner.smoothness()))
        if set(runner.counts.delays) - {0, delay}:
            raise RuntimeError(f"delays {set(runner.counts.delays)}, not {delay}")
    solved, spent = [one for one, _ in played], perf_counter() - begin
    rewards = [value for _, value in played]
    found = {"success": solved, "reward": rewards, "seams": seams, "seconds": spent}
    write_text(file, dumps(found, indent=1) + "\n")
    print(f"{file.stem}: {sum(solved)} of {len(played)}, {spent:.0f} s", flush=True)


def run(asked: Any) -> None:
    """Train and evaluate all seeds of one environment."""
    world, place = WORLDS[asked.env], asked.out / asked.env
    place.mkdir(parents=True, exist_ok=True)
    demonstrations(place, world)
    with EnvPool(configuration(world, world.tasks[0]), 5) as workers:
        for seed in range(asked.seeds):
            for delay in asked.delays:
                for mode in MODES if delay else ("naive", "trained"):
                    evaluate_mode(asked, place, workers, seed, mode, delay)


def gathered(place: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """For each mode and delay, what all seeds found; without a delay the first three are one."""
    from wamkit.simulate.metrics import wilson

    delays = sorted({int(file.stem.rsplit("-", 1)[1]) for file in place.glob("eval-*.json")})
    for mode in MODES:
        for delay in delays:
            kind = mode if delay or mode == "trained" else "naive"
            files = sorted(place.glob(f"eval-*-{kind}-{delay}.json"))
            seeds = [json.loads(file.read_text()) for file in files]
            if not seeds:
                continue
            flags = [flag for one in seeds for flag in one["success"]]
            rates = [mean(one["success"]) for one in seeds]
            seams = [seam for one in seeds for seam in one["seams"]]
            yield (
                mode,
                delay,
                {
                    "seeds": len(seeds),
                    "solved": sum(flags),
                    "total": len(flags),
                    "rate": mean(flags),
                    "interval": wilson(sum(flags), len(flags)),
                    "spread": stdev(rates) if len(rates) > 1 else 0.0,
                    "reward": mean(value for one in seeds for value in one["reward"]),
                    "jump": mean(s["jump"] for s in seams) / mean(s["jump_within"] for s in seams),
                    "jerk": mean(s["jerk"] for s in seams) / mean(s["jerk_within"] for s in seams),
                },
            )


def report(asked: Any) -> None:
    """Print the tables, and draw success, reward and jump over the delay."""
    found = {
        name: list(gathered(asked.out / name)) for name in WORLDS if (asked.out / name).is_dir()
    }
    head = "mode|delay|seeds|success|95 %|over seeds|mean reward|jump at seams|jerk at seams"
    for name, rows in found.items():
        print(
            f"\n{name}\n\n| {head.replace('|', ' | ')} |\n" + "|---" * (head.count("|") + 1) + "|"
        )
        for mode, delay, one in rows:
            low, high = one["interval"]
            line = [mode, delay, one["seeds"], f"{one['solved']} of {one['total']}"]
            line += [f"{low:.0%} to {high:.0%}", f"±{one['spread']:.0%}", f"{one['reward']:.3f}"]
            line += [f"{one['jump']:.2f}x", f"{one['jerk']:.2f}x"]
            print("| " + " | ".join(map(str, line)) + " |")
    if asked.plot is not None:
        draw(found, asked.plot)
        print(f"\nwrote {asked.plot}")


def draw(found: dict[str, Any], file: Path) -> None:
    """A column for each environment: success, mean reward, and the jump at seams."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "wamkit"
    figure, axes = pyplot.subplots(
        3, len(found), figsize=(4.6 * len(found), 8), sharex=True, squeeze=False
    )
    for column, (name, rows) in enumerate(found.items()):
        success, reward, seam = axes[:, column]
        for index, mode in enumerate(MODES):
            points = [(delay, one) for kind, delay, one in rows if kind == mode]
            across = [delay + 0.08 * (index - 1.5) for delay, _ in points]
            rates = [100 * one["rate"] for _, one in points]
            ends = [[100 * abs(end - one["rate"]) for end in one["interval"]] for _, one in points]
            bars = list(zip(*ends, strict=True))
            style = {"marker": "o", "markersize": 4, "color": f"C{index}", "linewidth": 1.2}
            success.errorbar(across, rates, yerr=bars, capsize=2, label=mode, **style)
            for axis, key in ((reward, "reward"), (seam, "jump")):
                axis.plot(across, [one[key] for _, one in points], label=mode, **style)
        success.set_title(name)
        success.set_ylim(-2, 102)
        for axis in (reward, seam):
            axis.set_ylim(bottom=0)
        seam.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        seam.set_xlabel("delay, actions")
    for axis, label in zip(
        axes[:, 0],
        ("success, %", "mean reward", "jump at seams over that within"),
        strict=True,
    ):
        axis.set_ylabel(label)
    axes[-1, -1].legend(fontsize=8)
    for one in axes.flat:
        one.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the stages."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = given.add_subparsers(dest="stage", required=True)
    first = stages.add_parser("run", help=run.__doc__)
    second = stages.add_parser("report", help=report.__doc__)
    for stage in (first, second):
        stage.add_argument("out", type=Path, help="folder of all results")
    first.add_argument("--env", choices=list(WORLDS), required=True)
    first.add_argument("--seeds", type=int, default=3)
    first.add_argument("--delays", type=int, nargs="+", default=[0, 1, 2, 4, 6])
    first.add_argument("--episodes", type=int, default=20, help="of each seed, over all tasks")
    first.add_argument("--updates", type=int, help="of each policy")
    second.add_argument("--plot", type=Path, help="SVG to draw")
    asked = given.parse_args(arguments)
    {"run": run, "report": report}[asked.stage](asked)


if __name__ == "__main__":
    try:
        main()
    except WamkitError as problem:
        raise SystemExit(str(problem)) from None

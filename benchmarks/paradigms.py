"""What is imagination worth? Every paradigm, with and without its video loss, on the same tasks.

    export OMP_NUM_THREADS=1
    python benchmarks/paradigms.py run runs/paradigms                 # resumes where it stopped
    python benchmarks/paradigms.py run runs/paradigms --shard 2/4     # on another machine
    python benchmarks/paradigms.py run runs/libero --env libero       # tasks of libero_object
    python benchmarks/paradigms.py report runs/paradigms --plot docs/paradigms.svg

`run` has the scripted experts of several tasks of Meta-World or LIBERO play a few episodes, and
trains one policy of each kind on all of them: paradigm x {video loss, none} x seed, from the same
spec. A training goes on until it has made as many updates as the others *and* has spent as much
computation, and the policy is evaluated at both moments: so each paradigm is compared at the same
number of updates, and at the same number of operations of training. The learning rate is constant
and the weights are averaged, so that the earlier moment is a policy of its own.

Every training and every evaluation leaves one JSON file, and what has one is not repeated; shards
share a folder, or their files are copied into one. `report` prints the tables and draws the plot.
Success has 95 % intervals by Wilson over all episodes of all seeds; the spread over seeds is given
too.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

# No torch here: the simulators' processes read this file too, and they render without it.
from made_once import made_once
from paradigm_report import USES, report

from wamkit.errors import WamkitError
from wamkit.files.durable import write_text
from wamkit.files.strict_json import dumps
from wamkit.simulate.env_pool import EnvPool
from wamkit.simulate.environment import choose

EXAMPLES = Path(__file__).parent.parent / "examples"
PARADIGMS = ("single_pass", "joint", "idm", "image_edit", "conditional", "planning")
LATER = ("autoregressive", "adaptive")
VIDEO = dict(zip(USES, ("0.3", "0"), strict=True))
ALONE = ("single_pass",)
"""Paradigms that can leave the future out of training altogether."""
FIRST = 100_000
"""Seed of the first episode that is evaluated: far above those of any demonstration."""
REFERENCE = "single_pass-video"
"""The kind whose computation is the budget of all."""


@dataclass(frozen=True)
class World:
    """Where it is played."""

    spec: str
    """File of `examples/`."""
    tasks: tuple[str, ...]
    demonstrations: int
    """Of each task."""
    max_steps: int
    """Of an episode that is evaluated."""
    longest: int
    """Steps of a demonstration."""
    arguments: tuple[str, ...] = ()
    """Of the environment."""
    collecting: tuple[str, ...] = ()
    """Of the environment, where demonstrations are collected."""


WORLDS = {
    "metaworld": World(
        "metaworld.toml",
        (
            "metaworld:drawer-open-v3",
            "metaworld:door-open-v3",
            "metaworld:window-open-v3",
            "metaworld:plate-slide-v3",
        ),
        4,
        150,
        200,
    ),
    "libero": World(
        "libero.toml",
        tuple(f"libero:libero_object/{index}" for index in range(3)),
        10,
        280,
        280,
        ("size=64", "rendering=fast"),
        ("initial_states=sampled",),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One training."""

    paradigm: str
    video: str
    seed: int

    @property
    def kind(self) -> str:
        """Name of all cells that differ by their seed alone."""
        return f"{self.paradigm}-{self.video}"

    @property
    def name(self) -> str:
        """Name of the files of this cell."""
        return f"{self.kind}-{self.seed}"


def cells(asked: Any) -> list[Cell]:
    """All trainings, seed after seed, so that a part of the work is a table already."""
    made = [
        Cell(paradigm, video, seed)
        for seed in range(asked.seeds)
        for paradigm in asked.paradigms
        for video in VIDEO
    ]
    shard, shards = asked.shard
    return made[shard - 1 :: shards]


def keep(file: Path, value: Any) -> Any:
    """Write a JSON file, and return what is in it."""
    write_text(file, dumps(value, indent=1) + "\n")
    return value


def environment(asked: Any, task: str, max_steps: int, *more: str) -> Any:
    """Configuration of a task."""
    return choose(task, [f"max_steps={max_steps}", *WORLDS[asked.env].arguments, *more])


def demonstrations(asked: Any) -> Path:
    """The data set of all tasks, collected if it is not there. One process collects."""
    return made_once(asked.out / "data", lambda part: collect_all(asked, part))


def collect_all(asked: Any, part: Path) -> None:
    """Collect the demonstrations of all tasks in a folder."""
    from wamkit.data import LeRobotFolder
    from wamkit.simulate.record import collect, open_dataset

    world = WORLDS[asked.env]
    for task in asked.tasks:
        config = environment(asked, task, world.longest, *world.collecting)
        with (
            EnvPool(config, 1) as workers,
            open_dataset(part, workers.robot(), "image") as made,
        ):
            found = collect(workers, made, asked.demonstrations)
            print(f"{task}: {found.episodes} episodes, {found.frames} frames", flush=True)
    frames = LeRobotFolder(part).info["total_frames"]
    print(f"{len(asked.tasks)} tasks: {frames} frames", flush=True)


def spec_of(asked: Any, cell: Cell) -> Any:
    """The policy of a cell. Raises SpecError if its parts do not fit."""
    from wamkit.config.check import check
    from wamkit.config.spec import parse, read
    from wamkit.errors import SpecError

    changes = [
        f"seed={cell.seed}",
        f"paradigm.name={cell.paradigm}",
        f"schedules.video.loss_weight={VIDEO[cell.video]}",
    ]
    if cell.paradigm in ALONE and cell.video == "no_video":
        changes.append("paradigm.co_training=false")
    spec = parse(read(EXAMPLES / WORLDS[asked.env].spec, changes), cell.name).fitted()
    if found := check(spec):
        raise SpecError(found, cell.name)
    return spec


def operations(asked: Any, data: Path, cell: Cell) -> int:
    """Floating-point operations of one update, counted by torch: forward and backward."""
    file = asked.out / f"{cell.kind}.flops.json"
    if file.is_file():
        return int(json.loads(file.read_text())["operations"])
    from torch.utils.flop_counter import FlopCounterMode

    import wamkit
    from wamkit.data import Columns, LeRobotFolder, Samples, collate, compute_statistics

    policy = wamkit.build(spec_of(asked, cell))
    recording = LeRobotFolder(data)
    policy.set_statistics(compute_statistics(recording, policy.spec, Columns()))
    samples = Samples(recording, policy.spec)
    batch = collate([samples[index] for index in range(asked.batch)])
    counter = FlopCounterMode(display=False)
    with counter:
        policy.loss(batch, seed=0).total.backward()
    return int(keep(file, {"operations": counter.get_total_flops()})["operations"])


def moments(asked: Any, data: Path, cell: Cell) -> dict[str, int]:
    """Updates at which the policy is evaluated: as many as all, and as dear as all."""
    reference = operations(asked, data, Cell(*REFERENCE.split("-"), seed=0))
    own = operations(asked, data, cell)
    return {"updates": asked.updates, "compute": max(1, round(asked.updates * reference / own))}


def trained(asked: Any, data: Path, cell: Cell, at: Sequence[int]) -> dict[int, Path]:
    """The policy after each number of updates; a run that was interrupted is resumed."""
    import wamkit
    from wamkit.data import Columns
    from wamkit.train import TrainConfig
    from wamkit.train.trainer import Data, train

    place = asked.out / cell.name
    found = {count: place / f"policy-{count}" for count in at}
    if all(folder.is_dir() for folder in found.values()):
        return found
    first, last = min(at), max(at)
    config = TrainConfig(
        steps=last,
        batch_size=asked.batch,
        seed=cell.seed,
        lr=1e-3,
        schedule="constant",
        warmup_ratio=0,
        ema=0.99,
        val_fraction=0,
        validate_every=0,
        save_every=first,
        max_checkpoints=last // first + 2,
    )
    run, begin = place / "run", process_time()
    policy = wamkit.build(spec_of(asked, cell))
    done = train(policy, Data(data, Columns()), run, config, resume=run.exists())
    if done.step < last:
        raise WamkitError(f"{run} was stopped after {done.step} updates", "type the command again")
    keep(place / "training.json", {"seconds": process_time() - begin, "updates": last})
    for count, folder in found.items():
        wamkit.Policy.load(run / "checkpoints" / f"step-{count:06d}" / "policy").save(folder)
    shutil.rmtree(run)
    return found


def evaluated(asked: Any, cell: Cell, count: int, folder: Path, workers: EnvPool) -> dict[str, Any]:
    """Success of a policy on every task, and processor time of a chunk alone."""
    file = asked.out / cell.name / f"eval-{count}.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    import wamkit
    from wamkit.simulate.compatibility import views_of
    from wamkit.simulate.policy_runner import PolicyRunner
    from wamkit.simulate.rollout import evaluate

    class Timed(PolicyRunner):
        """Measures the processor time of a decision."""

        def sample_actions(self, running: Any) -> Any:
            begin = process_time()
            made = super().sample_actions(running)
            spent.append((len(running), process_time() - begin))
            return made

    policy = wamkit.Policy.load(folder)
    chunk = policy.spec.actions.chunk_size
    steps = chunk if policy.paradigm.stateful else max(1, chunk // 2)
    tasks: dict[str, list[bool]] = {}
    spent: list[tuple[int, float]] = []
    for task in asked.tasks:
        views = views_of(policy.spec, workers.switch(environment(asked, task, asked.max_steps)), {})
        runner = Timed(policy, views, steps, {})
        seeds = range(FIRST, FIRST + asked.episodes)
        played = sorted(evaluate(workers, seeds, runner, {}), key=lambda one: one.seed)
        tasks[task] = [one.success for one in played]
    spent.clear()
    with EnvPool(environment(asked, asked.tasks[0], 12 * steps), 1) as workers:
        runner = Timed(policy, views_of(policy.spec, workers.robot(), {}), steps, {})
        list(evaluate(workers, [FIRST], runner, {}))
    return dict(
        keep(file, {"tasks": tasks, "ms": 1000 * min(s for _, s in spent), "updates": count})
    )


def run(asked: Any) -> None:
    """Train and evaluate every cell of this shard."""
    asked.out.mkdir(parents=True, exist_ok=True)
    settings = {
        name: getattr(asked, name)
        for name in ("env", "tasks", "demonstrations", "updates", "batch", "episodes", "max_steps")
    }
    settings["tasks"] = list(asked.tasks)
    file = asked.out / "settings.json"
    if file.is_file() and (then := json.loads(file.read_text())) != settings:
        raise WamkitError(f"{asked.out} was made with {then}", "choose another folder")
    keep(file, settings)
    data = demonstrations(asked)
    with EnvPool(environment(asked, asked.tasks[0], asked.max_steps), asked.episodes) as workers:
        for cell in cells(asked):
            run_cell(asked, data, cell, workers)


def run_cell(asked: Any, data: Path, cell: Cell, workers: EnvPool) -> None:
    """Train the policy of a cell, and evaluate it at its moments."""
    at, begin = moments(asked, data, cell), perf_counter()
    policies = trained(asked, data, cell, sorted(set(at.values())))
    results = {count: evaluated(asked, cell, count, policies[count], workers) for count in policies}
    keep(asked.out / f"{cell.name}.json", {"at": at, "results": results})
    solved = {way: sum(map(sum, results[count]["tasks"].values())) for way, count in at.items()}
    text = ", ".join(f"{way} ({at[way]}): {solved[way]}" for way in at)
    total = asked.episodes * len(asked.tasks)
    print(f"{cell.name}: {text} of {total}, {perf_counter() - begin:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the stages."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = given.add_subparsers(dest="stage", required=True)
    first = stages.add_parser("run", help=run.__doc__)
    second = stages.add_parser("report", help=report.__doc__)
    for stage in (first, second):
        stage.add_argument("out", type=Path, help="folder of all results")
        stage.add_argument("--paradigms", nargs="+", default=(*PARADIGMS, *LATER))
    first.add_argument("--env", choices=WORLDS, default="metaworld")
    first.add_argument("--tasks", nargs="+", help="such as metaworld:door-open-v3")
    first.add_argument("--seeds", type=int, default=3)
    first.add_argument("--demonstrations", type=int, help="episodes of each task")
    first.add_argument("--updates", type=int, default=250)
    first.add_argument("--batch", type=int, default=32)
    first.add_argument(
        "--episodes", type=int, default=6, help="of each task, in as many simulators at once"
    )
    first.add_argument("--max-steps", type=int, help="of an episode")
    first.add_argument("--shard", type=_shard, default=(1, 1), help="I/N: this part of N")
    second.add_argument("--plot", type=Path, help="SVG to draw")
    asked = given.parse_args(arguments)
    if asked.stage == "run":
        for name in ("tasks", "demonstrations", "max_steps"):
            if getattr(asked, name) is None:
                setattr(asked, name, getattr(WORLDS[asked.env], name))
    {"run": run, "report": report}[asked.stage](asked)


def _shard(text: str) -> tuple[int, int]:
    shard, _, shards = text.partition("/")
    found = int(shard), int(shards)
    if not 1 <= found[0] <= found[1]:
        raise ValueError(text)
    return found


if __name__ == "__main__":
    try:
        main()
    except WamkitError as problem:
        raise SystemExit(str(problem)) from None

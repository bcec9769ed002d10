"""What is imagination worth? Every paradigm, with and without its video loss, on the same tasks.

    export OMP_NUM_THREADS=1
    python benchmarks/paradigms.py run runs/paradigms                 # resumes where it stopped
    python benchmarks/paradigms.py run runs/paradigms --shard 2/4     # on another machine
    python benchmarks/paradigms.py report runs/paradigms --plot docs/paradigms.svg

`run` has the scripted experts of several Meta-World tasks play a few episodes, and trains one
policy of each kind on all of them: paradigm x {video loss, none} x seed, from the same spec. A
training goes on until it has made as many updates as the others *and* has spent as much
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
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter, process_time
from typing import Any

# No torch here: the simulators' processes read this file too, and they render without it.
from wamkit.errors import WamkitError
from wamkit.files.durable import write_text
from wamkit.files.strict_json import dumps
from wamkit.simulate.env_pool import EnvPool
from wamkit.simulate.environment import choose

SPEC = Path(__file__).parent.parent / "examples" / "metaworld.toml"
TASKS = ("drawer-open", "door-open", "window-open", "plate-slide")
PARADIGMS = ("single_pass", "joint", "idm", "image_edit", "conditional", "planning")
LATER = ("autoregressive", "adaptive")
VIDEO = {"video": "0.3", "no_video": "0"}
ALONE = ("single_pass",)
"""Paradigms that can leave the future out of training altogether."""
FIRST = 100_000
"""Seed of the first episode that is evaluated: far above those of any demonstration."""
REFERENCE = "single_pass-video"
"""The kind whose computation is the budget of all."""


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


def environment(task: str, max_steps: int) -> Any:
    """Configuration of a task."""
    return choose(f"metaworld:{task}-v3", [f"max_steps={max_steps}"])


def demonstrations(asked: Any) -> Path:
    """The data set of all tasks, collected if it is not there. One process collects."""
    from wamkit.data import LeRobotFolder
    from wamkit.simulate.record import collect, open_dataset

    folder: Path = asked.out / "data"
    if folder.exists():
        return folder
    part = asked.out / f"data.{os.getpid()}"
    for task in asked.tasks:
        config = environment(task, 200)
        with (
            EnvPool(config, 1) as workers,
            open_dataset(part, workers.robot(), "image") as made,
        ):
            found = collect(workers, made, asked.demonstrations)
            print(f"{task}: {found.episodes} episodes, {found.frames} frames", flush=True)
    frames = LeRobotFolder(part).info["total_frames"]
    part.rename(folder)
    print(f"{folder}: {frames} frames", flush=True)
    return folder


def spec_of(cell: Cell) -> Any:
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
    spec = parse(read(SPEC, changes), cell.name).fitted()
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

    policy = wamkit.build(spec_of(cell))
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
    policy = wamkit.build(spec_of(cell))
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
        views = views_of(policy.spec, workers.switch(environment(task, asked.max_steps)), {})
        runner = Timed(policy, views, steps, {})
        seeds = range(FIRST, FIRST + asked.episodes)
        played = sorted(evaluate(workers, seeds, runner, {}), key=lambda one: one.seed)
        tasks[task] = [one.success for one in played]
    spent.clear()
    with EnvPool(environment(asked.tasks[0], 12 * steps), 1) as workers:
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
        for name in ("tasks", "demonstrations", "updates", "batch", "episodes", "max_steps")
    }
    settings["tasks"] = list(asked.tasks)
    file = asked.out / "settings.json"
    if file.is_file() and (then := json.loads(file.read_text())) != settings:
        raise WamkitError(f"{asked.out} was made with {then}", "choose another folder")
    keep(file, settings)
    data = demonstrations(asked)
    with EnvPool(environment(asked.tasks[0], asked.max_steps), asked.episodes) as workers:
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


def gathered(asked: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """For each paradigm and each use of video, what is known of all seeds."""
    from wamkit.simulate.metrics import wilson

    for paradigm in asked.paradigms:
        for video in VIDEO:
            found = [
                json.loads(file.read_text())
                for file in sorted(asked.out.glob(f"{paradigm}-{video}-*.json"))
                if file.stem.rsplit("-", 1)[-1].isdigit()
            ]
            if not found:
                continue
            known: dict[str, Any] = {"seeds": len(found)}
            for way in ("updates", "compute"):
                results = [one["results"][str(one["at"][way])] for one in found]
                played = [[flag for task in r["tasks"].values() for flag in task] for r in results]
                rates = [mean(flags) for flags in played]
                solved, total = sum(map(sum, played)), sum(map(len, played))
                known[way] = {
                    "rate": solved / total,
                    "interval": wilson(solved, total),
                    "spread": stdev(rates) if len(rates) > 1 else 0.0,
                    "solved": solved,
                    "total": total,
                    "updates": found[0]["at"][way],
                    "ms": min(r["ms"] for r in results),
                    "tasks": {
                        task: mean(flag for r in results for flag in r["tasks"][task])
                        for task in results[0]["tasks"]
                    },
                }
            yield paradigm, video, known


def report(asked: Any) -> None:
    """Print the table, and draw success over computation."""
    found = list(gathered(asked))
    if not found:
        raise WamkitError(f"no cell in {asked.out} is done", "run them first")
    flops = {
        file.name.removesuffix(".flops.json"): json.loads(file.read_text())["operations"]
        for file in asked.out.glob("*.flops.json")
    }
    settings = json.loads((asked.out / "settings.json").read_text())
    head = "paradigm|video loss|seeds|GFLOP an update|ms a chunk|same updates|95 %|over seeds"
    head += "|updates at same compute|same compute|95 %"
    print(f"{settings}\n\n| {head.replace('|', ' | ')} |\n" + "|---" * (head.count("|") + 1) + "|")
    for paradigm, video, known in found:
        one, two = known["updates"], known["compute"]
        line = [
            paradigm,
            "yes" if video == "video" else "no",
            known["seeds"],
            f"{flops[f'{paradigm}-{video}'] / 1e9:.2f}",
            f"{one['ms']:.1f}",
            f"{one['solved']} of {one['total']}, {one['rate']:.0%}",
            "{:.0%} to {:.0%}".format(*one["interval"]),
            f"±{one['spread']:.0%}" if known["seeds"] > 1 else "-",
            two["updates"],
            f"{two['solved']} of {two['total']}, {two['rate']:.0%}",
            "{:.0%} to {:.0%}".format(*two["interval"]),
        ]
        print("| " + " | ".join(map(str, line)) + " |")
    if asked.plot is not None:
        draw(found, flops, settings, asked.plot)
        print(f"\nwrote {asked.plot}")


def draw(found: Any, flops: Any, settings: Any, file: Path) -> None:
    """Success over the computation of a training and over the time of a chunk."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "wamkit"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.6), sharey=True)
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(f[0] for f in found))}
    for paradigm, video, known in found:
        style = {"marker": "o" if video == "video" else "x", "color": colors[paradigm]}
        cost = flops[f"{paradigm}-{video}"] / 1e12
        points = sorted(
            {
                known[way]["updates"]: (cost * known[way]["updates"], known[way])
                for way in ("updates", "compute")
            }.items()
        )
        across = [x for _, (x, _) in points]
        up = [100 * one["rate"] for _, (_, one) in points]
        label = f"{paradigm}, {'video loss' if video == 'video' else 'none'}"
        left.plot(across, up, linewidth=1, label=label, **style)
        one = known["compute"]
        low, high = (100 * value for value in one["interval"])
        middle = 100 * one["rate"]
        bars = [[middle - low], [high - middle]]
        right.errorbar([one["ms"]], [middle], yerr=bars, capsize=2, linestyle="none", **style)
    left.set_xlabel("TFLOP of training")
    left.set_ylabel("success, %")
    right.set_xlabel("ms of one core for a chunk, at the same compute of training")
    right.set_xscale("log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_ylim(-2, 102)
    left.legend(fontsize=7, loc="best")
    total = settings["episodes"] * len(settings["tasks"])
    figure.suptitle(
        f"{len(settings['tasks'])} Meta-World tasks, {settings['demonstrations']} demonstrations "
        f"of each, {total} episodes a seed",
        fontsize=10,
    )
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
        stage.add_argument("--paradigms", nargs="+", default=(*PARADIGMS, *LATER))
    first.add_argument("--tasks", nargs="+", default=TASKS, help="of Meta-World, without -v3")
    first.add_argument("--seeds", type=int, default=3)
    first.add_argument("--demonstrations", type=int, default=4, help="episodes of each task")
    first.add_argument("--updates", type=int, default=250)
    first.add_argument("--batch", type=int, default=32)
    first.add_argument(
        "--episodes", type=int, default=6, help="of each task, in as many simulators at once"
    )
    first.add_argument("--max-steps", type=int, default=150, help="of an episode")
    first.add_argument("--shard", type=_shard, default=(1, 1), help="I/N: this part of N")
    second.add_argument("--plot", type=Path, help="SVG to draw")
    asked = given.parse_args(arguments)
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

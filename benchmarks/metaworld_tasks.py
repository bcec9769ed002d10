"""Train one policy on several Meta-World tasks with a GPU, and see how often it succeeds.

    python benchmarks/metaworld_tasks.py collect recordings/tasks           # no GPU, ten minutes
    python benchmarks/metaworld_tasks.py train recordings/tasks --out runs/tasks    # a GPU, nine
    python benchmarks/metaworld_tasks.py evaluate runs/tasks/policy         # no GPU

Three commands, for three machines if need be. `collect` has the scripted experts play and goes on
where it stopped; what it leaves is small enough to be sent anywhere. `train` needs that folder and
this repository: it measures its own speed first, with and without torch.compile, and makes as many
updates as fit into `--seconds`. Without a GPU it says so and ends; `--tiny` makes a few updates at
toy size on the CPU. `evaluate` needs the folder `policy` of the run, and plays episodes with seeds
that no demonstration has, in the simulators, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

# No torch here: the simulators' processes read this file too, and they render without it.
from wamkit.errors import WamkitError
from wamkit.simulate.env_pool import EnvPool
from wamkit.simulate.environment import choose

SPEC = Path(__file__).with_suffix(".toml")
TASKS = (  # of the experts 8 of 8 attempts succeed, within 30 to 100 actions
    "button-press-topdown",
    "drawer-close",
    "drawer-open",
    "faucet-open",
    "handle-press",
    "plate-slide",
    "reach",
    "window-open",
)
FIRST = 100_000
"""The seed of the first episode that is evaluated: far above those of any demonstration."""
PILOT = 40
"""Updates that are made and thrown away to know how long one takes."""


def environment(task: str, max_steps: int = 200) -> Any:
    """The configuration of a task."""
    return choose(f"metaworld:{task}-v3", [f"max_steps={max_steps}"])


def rows(columns: str, lines: Iterator[Sequence[Any]]) -> None:
    """A table, printed as it comes."""
    print(f"| {columns.replace('|', ' | ')} |\n" + "|---" * (columns.count("|") + 1) + "|")
    for line in lines:
        print("| " + " | ".join(map(str, line)) + " |", flush=True)


def mebibytes(files: set[Path]) -> float:
    """What files take."""
    return float(sum(file.stat().st_size for file in files)) / 2**20


def collect(asked: Any) -> None:
    """Demonstrations of every task into one data set."""
    from wamkit.data import LeRobotFolder
    from wamkit.simulate.record import collect, open_dataset

    def played() -> Iterator[Sequence[Any]]:
        for task in asked.tasks:
            config = environment(task)
            with (
                EnvPool(config, asked.processes) as workers,
                open_dataset(asked.data, workers.robot(), asked.image_format) as made,
            ):
                done = collect(workers, made, asked.episodes, keep_every=20)
            mine = [
                e
                for e in LeRobotFolder(asked.data).episodes
                if e.tasks == (config.task_instruction,)
            ]
            files = {e.data for e in mine} | {c.file for e in mine for c in e.clips.values()}
            expert = f"{done.episodes} of {done.attempts}"
            yield task, done.episodes, done.frames, expert, f"{mebibytes(files):.1f}"

    rows("task|episodes|frames|success of the expert|MiB", played())
    total = mebibytes({file for file in asked.data.rglob("*") if file.is_file()})
    frames = sum(episode.length for episode in LeRobotFolder(asked.data).episodes)
    print(f"\n{asked.data}: {frames} frames, {total:.1f} MiB of at most {asked.most:g}")
    if total > asked.most:
        raise WamkitError(
            f"{asked.data} takes {total:.1f} MiB, more than {asked.most:g}",
            f"collect anew with fewer --episodes than {asked.episodes}, or allow --most more",
        )


def train(asked: Any) -> None:
    """One run, as long as it may take, and what it reached."""
    import torch

    if not asked.tiny and not torch.cuda.is_available():
        print("no GPU: nothing to train")
        return
    import wamkit
    from wamkit.bench import machine
    from wamkit.config.spec import read
    from wamkit.data import Columns, LeRobotFolder
    from wamkit.policy.run_mode import compiler
    from wamkit.train import TrainConfig
    from wamkit.train.logs import read as log
    from wamkit.train.trainer import Data
    from wamkit.train.trainer import train as run

    device = "cpu" if asked.tiny else "cuda"
    workers = 0 if asked.tiny else max(1, (os.cpu_count() or 2) - 2)
    data, raw = Data(asked.data, Columns(), workers=workers), dict(read(SPEC))

    def trained(out: Path, steps: int, compiled: bool = False, **changes: Any) -> Any:
        config: dict[str, Any] = {
            "steps": steps,
            "batch_size": 8 if asked.tiny else asked.batch,
            "lr": 5e-4,
            "schedule": "one_cycle",
            "ema": 0.999,
            "precision": "bfloat16",
            "compile": compiled,
            "val_fraction": 0.05,
            "validate_every": max(1, steps // 5),
            "save_every": max(1, steps // 2),
            "max_checkpoints": 1,
        }
        policy = wamkit.build(raw, tiny=asked.tiny)
        return run(policy, data, out, TrainConfig(**config | changes), device=device)

    def pace(compiled: bool) -> float:
        """Samples a second in the last of a few updates."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "pilot"
            try:
                trained(out, PILOT, compiled, validate_every=0)
            except RuntimeError as problem:  # what a compiler that is not fit for it raises
                print(f"compiled: {compiled}, fails: {str(problem).splitlines()[0]}", flush=True)
                return 0.0
            found = float(log(out / "log.jsonl")[-1]["samples_per_second"])
        print(f"compiled: {compiled}, {found:.0f} samples/s", flush=True)
        return found

    steps, compiled = (4 if asked.tiny else asked.steps), False
    if not steps:
        paces = {compiled: pace(compiled) for compiled in (False, True)[: 1 + bool(compiler())]}
        compiled = max(paces, key=lambda way: paces[way])
        steps = max(PILOT, int(asked.seconds * paces[compiled] / asked.batch))
    done = trained(asked.out, steps, compiled)
    light = wamkit.Policy.load(done.checkpoint / "policy").save(asked.out / "policy")
    held = [line["validation"] for line in log(asked.out / "log.jsonl") if "validation" in line]
    about, frames = machine(torch.device(device)), LeRobotFolder(asked.data).info["total_frames"]
    batch = 8 if asked.tiny else asked.batch
    summary = {
        "device": f"{about['name']}, torch {about['torch']}, {about['date']}",
        "updates x batch": f"{done.step} x {batch}, {done.step * batch / frames:.1f} epochs",
        "compiled": "yes" if compiled else "no",
        "seconds": f"{done.seconds:.0f}",
        "samples/s": f"{done.samples_per_second:.1f}",
        "waiting for data": f"{done.waiting:.0%} of the time, {workers} processes read",
        "of the device's peak": "-" if done.utilization is None else f"{done.utilization:.1%}",
        "loss": f"{done.loss:.4f}",
        "held out": ", ".join(f"{k} {v:.4f}" for k, v in held[-1].items()),
        "to evaluate": f"{light}, {mebibytes(set(light.iterdir())):.1f} MiB",
    }
    rows("training|" + ("toy size" if asked.tiny else "as in the spec"), iter(summary.items()))


def evaluate(asked: Any) -> None:
    """Success of the policy and of chance on every task, into a file that can be gone on with."""
    from wamkit import Policy
    from wamkit.simulate.compatibility import views_of
    from wamkit.simulate.metrics import latencies, summary, wilson
    from wamkit.simulate.policy_runner import PolicyRunner
    from wamkit.simulate.rollout import evaluate, play

    out = asked.out or asked.policy.with_name(asked.policy.name + ".json")
    settings = {"episodes": asked.episodes, "seed": FIRST, "max_steps": asked.max_steps}
    found: dict[str, Any] = {"policy": str(asked.policy), **settings, "tasks": {}}
    if out.is_file():
        then = json.loads(out.read_text())
        if {name: then[name] for name in settings} == settings:
            found["tasks"] = then["tasks"]
    policy = Policy.load(asked.policy, [f"dtype={asked.dtype}"])
    execute_steps = policy.spec.actions.chunk_size // 2
    seeds = range(FIRST, FIRST + asked.episodes)

    def judged(task: str) -> dict[str, Any]:
        seconds: dict[str, list[float]] = {}
        with EnvPool(environment(task, asked.max_steps), asked.processes) as workers:
            runner = PolicyRunner(
                policy, views_of(policy.spec, workers.robot(), {}), execute_steps, {}
            )
            acted = sorted(evaluate(workers, seeds, runner, seconds), key=lambda a: a.seed)
            chance = list(play(workers, seeds, "random"))
        result = {"policy": summary(acted), "random": summary(chance)}
        return result | {"latency_ms": latencies(seconds)}

    def cells(name: str, results: Sequence[dict[str, Any]]) -> Sequence[Any]:
        solved = {who: sum(r[who]["successes"] for r in results) for who in ("policy", "random")}
        total = sum(r["policy"]["episodes"] for r in results)
        low, high = wilson(solved["policy"], total)
        rate, chance = (f"{solved[who] / total:.0%}" for who in ("policy", "random"))
        return name, f"{solved['policy']} of {total}", rate, f"{low:.0%} to {high:.0%}", chance

    def played() -> Iterator[Sequence[Any]]:
        for task in asked.tasks:
            if task not in found["tasks"]:
                found["tasks"][task] = judged(task)
                out.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
            yield cells(task, [found["tasks"][task]])
        # Wilson's interval of all episodes together is, if anything, too wide for a mean of tasks.
        yield cells("mean", [found["tasks"][task] for task in asked.tasks])

    rows("task|solved|success|95 %|random", played())
    print(f"\nwrote {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the stages."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = given.add_subparsers(dest="stage", required=True)
    first = stages.add_parser("collect", help=collect.__doc__)
    first.add_argument("data", type=Path, help="folder of the data set")
    first.add_argument("--episodes", type=int, default=80, help="of each task")
    first.add_argument("--image-format", choices=("video", "image"), default="video")
    first.add_argument("--most", type=float, default=60, help="MiB that it may take")
    second = stages.add_parser("train", help=train.__doc__)
    second.add_argument("data", type=Path, help="folder of the data set")
    second.add_argument("--out", type=Path, required=True, help="folder of the run")
    second.add_argument("--seconds", type=float, default=420, help="of training, without the pilot")
    second.add_argument("--steps", type=int, help="so many updates, however long they take")
    second.add_argument("--batch", type=int, default=512)
    second.add_argument("--tiny", action="store_true", help="toy size, a few updates, on the CPU")
    third = stages.add_parser("evaluate", help=evaluate.__doc__)
    third.add_argument("policy", type=Path, help="folder of a saved policy")
    third.add_argument("--episodes", type=int, default=20, help="of each task")
    third.add_argument("--max-steps", type=int, default=200, help="of an episode")
    third.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    third.add_argument("--out", type=Path, help="JSON file; by default next to the policy")
    for stage in (first, third):
        stage.add_argument("--tasks", nargs="+", default=TASKS, help="without -v3")
        stage.add_argument("--processes", type=int, default=2, help="simulators side by side")
    asked = given.parse_args(arguments)
    begin = perf_counter()
    {"collect": collect, "train": train, "evaluate": evaluate}[asked.stage](asked)
    print(f"{asked.stage}: {perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    try:
        main()
    except WamkitError as problem:
        raise SystemExit(f"{problem}") from None

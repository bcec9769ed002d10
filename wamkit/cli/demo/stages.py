"""The stages of a demonstration; each leaves a file, and one whose file is there is not repeated.

OUT/demo.json               what was asked for
OUT/data, data.json         demonstrations of the expert, and what they are
OUT/random.json, expert.json    how well the baselines do
OUT/NAME/training           the run of a policy, which is resumed if it was interrupted
OUT/NAME/training.json      how long it took, all sessions together
OUT/NAME/eval.json          how well the policy does
OUT/NAME/imagined.json      how good its imagined frames are, on demonstrations that were held out
OUT/NAME/film.json, *.webp  of the best: films of the expert, a success and a failure
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ...config import runs
from ...config.spec import PolicySpec, parse, read
from ...errors import SpecError, WamkitError
from ...files import strict_json
from ...files.durable import as_not_written, discard, make_folder, sweep, write_text

Report = Callable[[int, str], None]
"""Called with the number done so far and a remark."""
OpenProgress = Callable[[str, int], AbstractContextManager[Report]]
"""Opens a progress bar: the name of a stage and its total."""
Found = dict[str, Any]

SPEC = Path(__file__).with_name("policy.toml")
SAVES = 10
"""Checkpoints of a run, over all its steps."""


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a demonstration."""

    task: str
    episodes: int
    steps: int
    eval_episodes: int
    seed: int
    batch: int = 64  # action chunks of an update; a sample has one or several
    max_steps: int | None = None  # of an episode; that of the environment if left open

    @property
    def first(self) -> int:
        """The seed of the first episode that is evaluated; those of `collect` are below it."""
        return self.seed + max(1000, 5 * self.episodes)


@dataclass(frozen=True)
class Way:
    """What became of one paradigm."""

    name: str
    spec: PolicySpec | None = None
    log: tuple[Found, ...] = ()  # lines of its training
    training: Found | None = None
    result: Found | None = None
    imagined: Found | None = None
    problem: str = ""  # why there is no result

    @property
    def rank(self) -> tuple[float, float]:
        """The smallest is the best: by successes, and as many of them by time for a decision."""
        if self.result is None:
            return 1.0, 0.0
        return -self.result["success_rate"], self.result["latency_ms"]["policy"]["p50"]


@dataclass(frozen=True)
class Demo:
    """All that the stages left."""

    settings: Settings
    data: Found
    baselines: Mapping[str, Found]
    ways: tuple[Way, ...]  # the best first
    film: Found | None = None


def spec_of(paradigm: str | None, seed: int) -> PolicySpec:
    """The small policy with this paradigm, or with its own. Raises SpecError if they do not fit."""
    from ...config.check import check

    changes = [f"seed={seed}"]
    if paradigm is not None:
        changes.append(f"paradigm.name={paradigm}")
    spec = parse(read(SPEC, changes), f"the demo with paradigm {paradigm}").fitted()
    if found := check(spec):
        raise SpecError(found, f"the demo with paradigm {spec.paradigm.name}")
    return spec


def begin(out: Path, settings: Settings) -> None:
    """Make the folder, or find it as it was left. Raises WamkitError if it is another one's."""
    asked, file = asdict(settings), out / "demo.json"
    sweep(out)
    if file.is_file():
        then = _read(file)
        if changed := [name for name, value in asked.items() if then.get(name) != value]:
            changes = ", ".join(f"{name} = {then.get(name)}" for name in changed)
            raise WamkitError(
                f"{out} is a demo with {changes}",
                "ask for the same to continue it, or choose another folder with --out",
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WamkitError(f"{out} is there already, and no demo", "choose another --out")
    else:
        with as_not_written(out):
            make_folder(out)
        _write(file, asked)


@contextmanager
def opened(settings: Settings, processes: int) -> Iterator[Any]:
    """The simulators, in processes of their own. Raises WamkitError if their package is missing."""
    from ...simulate.env_pool import EnvPool
    from ...simulate.environment import choose

    limit = [] if settings.max_steps is None else [f"max_steps={settings.max_steps}"]
    config = choose(settings.task, limit)
    with EnvPool(config, processes) as workers:
        yield workers


def demonstrations(out: Path, settings: Settings, workers: Any, progress: OpenProgress) -> Found:
    """Have the expert show how it is done."""
    from ...data import LeRobotFolder
    from ...simulate.record import collect, open_dataset

    def make() -> Found:
        folder = out / "data"
        if not folder.exists():
            count = settings.episodes
            with (
                progress("demonstrations of the expert", count) as report,
                open_dataset(folder, workers.robot(), "image") as made,
            ):
                on_rollout = _counter(report, lambda rollout: rollout.success)
                collect(workers, made, count, seed=settings.seed, on_rollout=on_rollout)
        lengths = [episode.length for episode in LeRobotFolder(folder).episodes]
        return {"episodes": len(lengths), "frames": sum(lengths)}

    return keep_result(out / "data.json", make)


def played(
    out: Path, settings: Settings, workers: Any, actor: str, progress: OpenProgress
) -> Found:
    """Evaluate `random` or `expert`."""
    from ...simulate.rollout import play

    def make() -> Found:
        with progress(f"evaluation of {actor}", settings.eval_episodes) as report:
            return _summary(play(workers, _seeds(settings), actor), report)

    return keep_result(out / f"{actor}.json", make)


def judged(
    out: Path, settings: Settings, spec: PolicySpec, workers: Any, progress: OpenProgress
) -> Way:
    """Train a policy on the demonstrations and evaluate it."""
    from ...train.logs import read as log

    name = spec.paradigm.name
    place = out / name
    expect_fit(spec, workers)
    training = _trained(place, out / "data", settings, spec, progress)
    result = keep_result(
        place / "eval.json", lambda: _evaluated(place, settings, workers, progress)
    )
    from .imagined import measure_imagined

    imagined = keep_result(
        place / "imagined.json", lambda: measure_imagined(place, out / "data", settings, spec)
    )
    lines = tuple(log(place / "training" / "log.jsonl"))
    return Way(name, spec, lines, training, result, imagined)


def expect_fit(spec: PolicySpec, workers: Any) -> None:
    """Raise SpecError if the policy is made for another robot."""
    from ...simulate.compatibility import conflicts

    robot, stateful = workers.robot(), spec.paradigm.build().stateful
    if found := list(conflicts(spec, robot, {}, _replan(spec), stateful)):
        raise SpecError(found, "the policy of the demo in this environment")


def _replan(spec: PolicySpec) -> int:
    """Actions executed of a chunk: half of them, or all where the policy remembers."""
    chunk = spec.actions.chunk_size
    return chunk if spec.paradigm.build().stateful else max(1, chunk // 2)


def _trained(
    place: Path, data: Path, settings: Settings, spec: PolicySpec, progress: OpenProgress
) -> Found:
    """Train to the last step, from where an earlier session stopped."""
    from ...train import TrainConfig

    run, file = place / "training", place / "training.json"
    every = runs.finished(run / runs.CHECKPOINTS)
    done = every[-1][0] if every else 0
    spent = _read(file)["seconds"] if file.is_file() else 0.0
    if done >= settings.steps:
        return {"steps": done, "seconds": spent}
    if run.exists() and not done:
        discard(run)  # it stopped before its first checkpoint
    config = TrainConfig(
        steps=settings.steps,
        batch_size=max(1, settings.batch // spec.paradigm.chunks_per_sample),
        seed=settings.seed,
        lr=1e-3,
        schedule="one_cycle",
        warmup_ratio=0.1,
        ema=0.99,
        save_every=max(50, settings.steps // SAVES),
    )
    from ...data import Columns
    from ...policy.build import build
    from ...train.trainer import Data, train

    policy = build(spec)
    with progress(f"training of {spec.paradigm.name}", settings.steps) as report:

        def on_step(step: int, metrics: Mapping[str, Any]) -> None:
            report(step, f"loss {metrics['loss']:.3f}")

        report(done, "")
        summary = train(
            policy, Data(data, Columns()), run, config, resume=done > 0, on_step=on_step
        )
    found = {"steps": summary.step, "seconds": spent + summary.seconds}
    _write(file, found)
    if summary.interrupted:
        raise KeyboardInterrupt
    return found


def policy_runner(place: Path, workers: Any, *, imagine: bool) -> Any:
    """The newest policy of a run, ready to act in these environments."""
    from ...policy.policy import Policy
    from ...simulate.compatibility import views_of
    from ...simulate.policy_runner import PolicyRunner

    _, newest = runs.finished(place / "training" / runs.CHECKPOINTS)[-1]
    policy = Policy.load(newest / runs.POLICY)
    views = views_of(policy.spec, workers.robot(), {})
    return PolicyRunner(policy, views, _replan(policy.spec), {}, imagine=imagine)


def _evaluated(place: Path, settings: Settings, workers: Any, progress: OpenProgress) -> Found:
    from ...simulate.metrics import latencies
    from ...simulate.rollout import evaluate

    runner = policy_runner(place, workers, imagine=False)
    seconds: dict[str, list[float]] = {}
    with progress(f"evaluation of {place.name}", settings.eval_episodes) as report:
        found = _summary(evaluate(workers, _seeds(settings), runner, seconds), report)
    return found | {
        "latency_ms": latencies(seconds),
        "execute_steps": runner.execute_steps,
        "chunk_size": runner.policy.spec.actions.chunk_size,
        "batch": len(workers),
        "control_hz": workers.robot().control_hz,
    }


def _summary(rollouts: Iterable[Any], report: Report) -> Found:
    """The scores of attempts, counted while they come."""
    from ...simulate.metrics import summary

    kept, solved = [], 0
    for rollout in rollouts:
        kept.append(rollout)
        solved += rollout.success
        report(len(kept), f"{solved} successes")
    return summary(sorted(kept, key=lambda rollout: rollout.seed))


def _seeds(settings: Settings) -> range:
    return range(settings.first, settings.first + settings.eval_episodes)


def _counter(report: Report, counts: Callable[[Any], bool]) -> Callable[[Any], None]:
    done = 0

    def on_rollout(rollout: Any) -> None:
        nonlocal done
        done += counts(rollout)
        report(done, "")

    return on_rollout


def keep_result(file: Path, make: Callable[[], Found]) -> Found:
    """What `make` made in an earlier session, or makes now, with the seconds it took."""
    if file.is_file():
        return _read(file)
    start = perf_counter()
    found = make()
    found = {**found, "seconds": perf_counter() - start}
    _write(file, found)
    return found


def _read(file: Path) -> Found:
    try:
        found: Found = strict_json.loads(file.read_text())
    except ValueError as error:
        raise WamkitError(f"{file} cannot be read: {error}", "remove it and ask again") from None
    return found


def _write(file: Path, found: Mapping[str, Any]) -> None:
    """Write a result atomically."""
    write_text(file, strict_json.dumps(found, indent=2) + "\n")

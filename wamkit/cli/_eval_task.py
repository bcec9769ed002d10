"""`wamkit eval --env`: episodes in one environment, films and a data set of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WamkitError
from ..files import strict_json
from ..files.durable import recover, replacing_folder
from ..files.paths import expand_home
from ._env_options import progress
from ._eval_policy import BASELINES, PolicyOptions, load_runner, trained_conventions
from ._imagined import draw_imagined, open_quality
from ._output import emit, note, say, show_table, table, versioned
from ._real_time import real_time_rows

if TYPE_CHECKING:
    from ..data import Writer
    from ..simulate.env_pool import EnvPool
    from ..simulate.episodes import Rollout
    from ..simulate.policy_runner import PolicyRunner


@dataclass(frozen=True)
class TaskOptions:
    """One environment and what is played and kept there, as it was typed."""

    env: str
    env_settings: list[str]
    episodes: int
    seed: int
    processes: int
    record: Path | None
    film: str
    dataset: Path | None


def evaluate_task(options: TaskOptions, acting: PolicyOptions, *, json: bool) -> None:
    """Play episodes in one environment, and report them."""
    from ..simulate.env_pool import EnvPool
    from ..simulate.environment import choose
    from ..simulate.metrics import latencies, summary
    from ..simulate.timing import add_timings
    from ..simulate.video import write_video

    env, episodes, film = options.env, options.episodes, options.film
    policy = acting.policy
    config = choose(env, options.env_settings, trained_conventions(acting))
    baseline = policy in BASELINES
    record = _vacant(options.record, "--record")
    dataset = _vacant(options.dataset, "--dataset")
    keep = record is not None or dataset is not None
    rollouts: list[Rollout] = []
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        films = None if record is None else stack.enter_context(replacing_folder(record))
        count = max(1, min(options.processes, episodes))
        workers = stack.enter_context(EnvPool(config, count, apart=options.processes > 0))
        robot, every = workers.robot(), 1
        runner: PolicyRunner | None = None
        if not baseline:
            runner = load_runner(acting, robot, imagine=record is not None)
            every = runner.policy.spec.video.frame_stride
        quality = open_quality(runner)
        made: Writer | None = None
        if dataset is not None:
            from ..simulate.record import open_dataset

            made = stack.enter_context(open_dataset(dataset, robot, "video"))
        advance, _ = stack.enter_context(progress("episodes", episodes))
        seeds = range(options.seed, options.seed + episodes)
        for rollout in _run_episodes(workers, seeds, policy, runner, keep, seconds):
            if films is not None:
                word = "success" if rollout.success else "failure"
                write_video(
                    rollout, films / f"{rollout.seed}_{word}.{film}", robot.control_hz, every
                )
            if quality is not None:
                quality.add(rollout)
            if made is not None:
                _add(made, rollout)
            rollouts.append(_light(rollout))
            advance()
        rollouts.sort(key=lambda rollout: rollout.seed)
        found: dict[str, Any] = {
            "policy": policy,
            "environment": {"name": env, **config.model_dump(mode="json", exclude={"name"})},
            "control_hz": robot.control_hz,
            **summary(rollouts),
        }
        if runner is not None:
            latency = latencies(seconds)
            spent = (
                latency["policy"]["p50"] + latency.get("observation", {"p50": 0})["p50"]
            ) / 1000
            found |= {
                "execute_steps": runner.execute_steps,
                "chunk_size": runner.policy.spec.actions.chunk_size,
                "batch": len(workers),
                "latency_ms": latency,
                "control_rate": runner.execute_steps / spent,
                "normalized": runner.policy.actions.statistics is None,
            }
        if quality is not None:
            found["imagined"] = quality.quality.summary()
        if acting.real_time is not None:
            late = acting.real_time.described(runner.prefix if runner is not None else None)
            timing = add_timings(rollout.timing for rollout in rollouts)
            found["real_time"] = {**late, **timing.summary()}
        if films is not None:
            (films / "eval.json").write_text(strict_json.dumps(versioned(found), indent=2) + "\n")
    if json:
        emit(found)
        return
    draw(found)
    if found.get("imagined"):
        draw_imagined(found["imagined"])
    if found.get("normalized"):
        note("the policy has no statistics: its actions are in normalized units")
    for folder in (record, dataset):
        if folder is not None:
            say(f"wrote {folder}", whole=True)


def _vacant(folder: Path | None, label: str) -> Path | None:
    """`folder`, if nothing is in it. Raises WamkitError otherwise."""
    if folder is None:
        return None
    folder = recover(expand_home(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WamkitError(f"{folder} is there already", f"choose another folder for {label}")
    return folder


def _run_episodes(
    workers: EnvPool,
    seeds: range,
    policy: str,
    runner: PolicyRunner | None,
    keep: bool,
    seconds: dict[str, list[float]],
) -> Iterator[Rollout]:
    """Yield episodes as they end; add the latencies of the policy to `seconds`."""
    from ..simulate.rollout import evaluate, play

    if runner is None:
        yield from play(workers, seeds, policy, keep=keep)
    else:
        yield from evaluate(workers, seeds, runner, seconds, keep=keep)


def _light(rollout: Rollout) -> Rollout:
    """The attempt without its images."""
    from dataclasses import replace

    return replace(rollout, frames=(), imagined={}, last=None)


def _add(made: Writer, rollout: Rollout) -> None:
    from ..simulate.record import add_rollout

    add_rollout(made, rollout)


def draw(found: dict[str, Any]) -> None:
    """The findings as a table."""
    low, high = found["interval_95"]
    rows = [
        ("success", f"{found['successes']} of {found['episodes']}"),
        ("success rate", f"{found['success_rate']:.1%}, 95 % in [{low:.1%}, {high:.1%}]"),
        ("return", f"{found['return']:.2f}"),
        ("actions", f"{found['steps']:.1f}"),
    ]
    if found["steps_to_success"] is not None:
        rows.append(("actions to success", f"{found['steps_to_success']:.1f}"))
    rows.append(("seeds", f"{found['seeds'][0]} to {found['seeds'][-1]}"))
    for stage, times in found.get("latency_ms", {}).items():
        rows.append((f"{stage}, ms", f"{times['p50']:.1f} (95 % below {times['p95']:.1f})"))
    if "control_rate" in found:
        rate = (
            f"{found['control_rate']:.0f} actions a second, the robot takes {found['control_hz']:g}"
        )
        rows.append(("control rate", rate))
        rows.append(
            ("executed", f"{found['execute_steps']} of {found['chunk_size']} actions of each chunk")
        )
    if (late := found.get("real_time")) is not None:
        rows += real_time_rows(late)
    made = table("", "")
    made.show_header = False
    for row in rows:
        made.add_row(*row)
    show_table(made)

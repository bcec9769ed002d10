"""`wamkit eval`: a policy, or a baseline, in closed loop in a simulator; how often it succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config.seeds import MOST, expect_seed
from ..errors import SpecError, WamkitError
from ..files import strict_json
from ..files.durable import recover, replacing_folder
from ..files.paths import expand_home
from ._completion import complete_policy
from ._env_options import EnvOption, EnvSettings, Processes, progress
from ._options import Device, Json, Overrides
from ._output import emit, note, say, show_table, table, versioned
from ._sources import resolve_source

if TYPE_CHECKING:
    from ..data import Writer
    from ..simulate.env_pool import EnvPool
    from ..simulate.episodes import Rollout
    from ..simulate.policy_runner import PolicyRunner

EXAMPLE = "wamkit eval runs/press/policy --env metaworld:button-press-topdown-v3 --record films"

BASELINES = ("random", "expert")


def command(
    policy: Annotated[
        str,
        typer.Argument(
            metavar="POLICY",
            help="A saved policy or a run, or `random` or `expert`.",
            autocompletion=complete_policy,
        ),
    ],
    env: EnvOption,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.")] = 20,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=MOST,
            help="Seed of the first episode; the next ones count up. `collect` begins at 0.",
        ),
    ] = 1000,
    execute_steps: Annotated[
        int | None,
        typer.Option(
            "--execute-steps",
            min=1,
            help="Actions executed of each chunk; by default half of them.",
        ),
    ] = None,
    processes: Processes = 2,
    choice: Annotated[
        list[str] | None,
        typer.Option(
            "--act-option",
            metavar="NAME=VALUE",
            help="Option of the paradigm for each call; may be repeated.",
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            "--camera-map",
            metavar="VIEW=CAMERA",
            help="Map a view of the policy to a camera.",
        ),
    ] = None,
    env_settings: EnvSettings = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Folder for eval.json and videos, with the imagined future next to the real one."
        ),
    ] = None,
    film: Annotated[
        Literal["mp4", "gif"], typer.Option("--video-format", help="Format of videos.")
    ] = "mp4",
    dataset: Annotated[
        Path | None, typer.Option(help="Also write the episodes as a LeRobot data set.")
    ] = None,
    overrides: Overrides = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Run episodes with a policy and report its success rate.

    The interval is Wilson's, of 95 %. The same seeds give the same result.
    """
    from ..simulate.env_pool import EnvPool
    from ..simulate.environment import choose
    from ..simulate.metrics import latencies, summary
    from ..simulate.video import write_video

    config = choose(env, env_settings or [])
    baseline = policy in BASELINES
    if baseline and (execute_steps or choice or view or overrides):
        raise WamkitError(
            f"--execute-steps, --act-option, --camera-map and --set have no meaning for {policy}",
            "leave them out",
        )
    expect_seed(seed, "--seed", room=episodes)
    record, dataset = _vacant(record, "--record"), _vacant(dataset, "--dataset")
    keep = record is not None or dataset is not None
    rollouts: list[Rollout] = []
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        films = None if record is None else stack.enter_context(replacing_folder(record))
        count = max(1, min(processes, episodes))
        workers = stack.enter_context(EnvPool(config, count, apart=processes > 0))
        robot, every = workers.robot(), 1
        runner: PolicyRunner | None = None
        if not baseline:
            runner = _policy_runner(
                policy, workers, execute_steps, choice, view, overrides, device, record
            )
            every = runner.policy.spec.video.frame_stride
        made: Writer | None = None
        if dataset is not None:
            from ..simulate.record import open_dataset

            made = stack.enter_context(open_dataset(dataset, robot, "video"))
        advance, _ = stack.enter_context(progress("episodes", episodes))
        seeds = range(seed, seed + episodes)
        for rollout in _run_episodes(workers, seeds, policy, runner, keep, seconds):
            if films is not None:
                word = "success" if rollout.success else "failure"
                write_video(
                    rollout, films / f"{rollout.seed}_{word}.{film}", robot.control_hz, every
                )
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
        if films is not None:
            (films / "eval.json").write_text(strict_json.dumps(versioned(found), indent=2) + "\n")
    if json:
        emit(found)
        return
    _draw(found)
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


def _policy_runner(
    policy: str,
    workers: EnvPool,
    execute_steps: int | None,
    choice: list[str] | None,
    view: list[str] | None,
    overrides: list[str] | None,
    device: str,
    record: Path | None,
) -> PolicyRunner:
    """The policy, loaded when everything fits. Raises SpecError with all that does not."""
    from ..config.runs import is_folder
    from ..policy.build import resolve
    from ..simulate.compatibility import conflicts, views_of
    from ._inputs import load_policy

    if not is_folder(policy):
        raise WamkitError(
            f"no saved policy at {policy}",
            "name the folder of one, or a baseline: random or expert",
        )
    folder = resolve_source(Path(policy))
    spec = resolve(folder, overrides or [])
    named, robot = _pairs("--camera-map", view), workers.robot()
    stateful = spec.paradigm.build().stateful
    steps = execute_steps or (
        spec.actions.chunk_size if stateful else max(1, spec.actions.chunk_size // 2)
    )
    if found := list(conflicts(spec, robot, named, steps, stateful)):
        raise SpecError(found, f"{policy} in this environment")
    from ..simulate.policy_runner import PolicyRunner

    made, notes = load_policy(folder, spec, device, overrides or [])
    for line in notes:
        note(line)
    act_options = {name: _value(text) for name, text in _pairs("--act-option", choice).items()}
    imagine = record is not None
    return PolicyRunner(made, views_of(spec, robot, named), steps, act_options, imagine=imagine)


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


def _pairs(option: str, args: list[str] | None) -> dict[str, str]:
    """Parse `NAME=VALUE` arguments to a dictionary."""
    found = {}
    for word in args or []:
        name, equals, value = word.partition("=")
        if not equals:
            raise WamkitError(f"{option} {word!r} has no '='", f"write {option} NAME=VALUE")
        found[name] = value
    return found


def _value(text: str) -> Any:
    """A number, true, false, null or text, as YAML reads it."""
    from ..files import strict_yaml

    try:
        return strict_yaml.loads(text)
    except ValueError as error:
        raise WamkitError(f"the value {text[:80]!r} cannot be read: {error}", "quote it") from None


def _draw(found: dict[str, Any]) -> None:
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
    made = table("", "")
    made.show_header = False
    for row in rows:
        made.add_row(*row)
    show_table(made)

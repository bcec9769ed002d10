"""`wamkit eval --suite`: all tasks of a benchmark, resumed where it stopped, shard by shard."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..config.suites import choose_tasks, find_suite
from ..files.locking import lock
from ..files.paths import expand_home
from ._env_options import progress
from ._eval_policy import PolicyOptions, load_actor, trained_conventions
from ._eval_results import draw, publish
from ._output import INTERRUPTED, emit, note, say

if TYPE_CHECKING:
    from ..simulate.suite.actor import Actor
    from ..simulate.suite.files import EpisodeRecord, SuiteFolder
    from ..simulate.suite.run import SuiteRun


@dataclass(frozen=True)
class SuiteOptions:
    """What of a suite is played, as it was typed."""

    suite: str
    tasks: list[str]
    episodes: int
    seed: int
    processes: int
    env_settings: list[str]
    shard: str | None
    out: Path | None
    films: int
    film: str


def run_suite(options: SuiteOptions, acting: PolicyOptions, *, json: bool) -> None:
    """Play what is not played yet, and report all of it."""
    from ..simulate.env_pool import EnvPool
    from ..simulate.suite.files import SuiteFolder
    from ..simulate.suite.plan import parse_shard, plan_episodes, queues_of, tasks_of
    from ..simulate.suite.run import SuiteRun
    from ..simulate.suite.versions import describe_start
    from ..simulate.video import expect_video

    suite, shard = find_suite(options.suite), parse_shard(options.shard)
    numbers = choose_tasks(suite, options.tasks)
    tasks = tasks_of(suite, numbers, options.env_settings, trained_conventions(acting))
    plan = plan_episodes(tasks, options.episodes, options.seed)
    if options.films:
        expect_video(options.film)
    simulators = max(1, options.processes)
    queues = queues_of(plan, simulators, shard)
    out = expand_home(options.out or Path("out", f"eval-{suite.name}"))
    place = SuiteFolder.of(out, shard)
    config = tasks[0].config
    with _leaving_no_empty_folder(place.folder), ExitStack() as stack:
        stack.enter_context(lock(place.folder, "choose another --out"))
        workers = stack.enter_context(EnvPool(config, simulators, apart=options.processes > 0))
        workers.ask(0, "rendering")
        rendering, robot = workers.answer(0), workers.robot()
        decides, actor = load_actor(acting, robot, tasks, simulators, stack)
        settings = {
            "suite": suite.name,
            "tasks": [task.subject for task in tasks],
            "episodes_per_task": options.episodes,
            "seed": options.seed,
            "environment": config.model_dump(mode="json", exclude={type(config).subject or ""}),
            "simulators": simulators,
            "policy": decides,
        }
        command = ["wamkit", *sys.argv[1:]]
        start = describe_start(acting.policy, config, rendering, command, acting.device)
        start |= {"shard": shard and shard.label, "control_hz": robot.control_hz}
        done = place.begin(settings, start)
        known = {record.key for record in done}
        left = [[e for e in queue if e.key not in known] for queue in queues]
        count = sum(map(len, left))
        if done and not json:
            note(f"{place.folder} has {len(done)} episodes already; {count} are left")
        run = SuiteRun(workers, left, robot, films=options.films > 0)
        stopped = _play(run, actor, acting.policy, place, done, count, options, robot.control_hz)
    share = [e for queue in queues for e in queue]
    found = publish(place, sorted(share, key=plan.index))
    _report(found, place, json=json, stopped=stopped)


@contextmanager
def _leaving_no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove the folder if the block fails before anything is in it."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def _play(
    run: SuiteRun,
    actor: Actor | None,
    who: str,
    place: SuiteFolder,
    done: list[EpisodeRecord],
    count: int,
    options: SuiteOptions,
    control_hz: float,
) -> bool:
    """Play what is left, and record each episode as it ends. True if Ctrl-C stopped it."""
    from ..simulate.suite.films import FilmShelf

    shelf = FilmShelf(place.films, done, options.films, options.film, control_hz)
    episodes = run.play(who) if actor is None else run.evaluate(actor)
    try:
        with progress("episodes", count) as (advance, _):
            for played in episodes:
                place.add(shelf.record(played))
                advance()
    except KeyboardInterrupt:
        return True
    return False


def merge_shards(folder: Path, *, json: bool) -> None:
    """Merge all shards in a folder into one evaluation there, and report it."""
    from ..simulate.suite.files import SuiteFolder
    from ..simulate.suite.merge import merge, plan_of

    place = SuiteFolder(expand_home(folder))
    with lock(place.folder, "wait until it has ended"):
        settings = merge(place)
        found = publish(place, plan_of(settings))
    _report(found, place, json=json, stopped=False)


def _report(found: dict[str, Any], place: SuiteFolder, *, json: bool, stopped: bool) -> None:
    """Print the result; exit code 130 if it was interrupted."""
    if json:
        emit(found)
    else:
        draw(found)
        say(f"wrote {place.folder}", whole=True)
    if stopped:
        note("interrupted: the same command goes on")
        raise typer.Exit(INTERRUPTED)

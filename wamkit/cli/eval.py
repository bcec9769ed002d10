"""`wamkit eval`: a policy, or a baseline, in closed loop in a simulator; how often it succeeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..config.seeds import MOST, expect_seed
from ..errors import WamkitError
from ._completion import complete_policy
from ._env_options import EnvOption, EnvSettings, Processes, SuiteOption
from ._eval_policy import PolicyOptions
from ._eval_suite import SuiteOptions, merge_shards, run_suite
from ._eval_task import TaskOptions, evaluate_task
from ._imagined import RecordedOptions, evaluate_data
from ._options import Column, Device, Json, Overrides
from ._real_time import parse_real_time

PRINTS_TABLES = True
EXAMPLE = "wamkit eval runs/press/policy --env metaworld:button-press-topdown-v3 --record films"


def command(
    policy: Annotated[
        str | None,
        typer.Argument(
            metavar="POLICY",
            help="A saved policy or a run, `random` or `expert`, or a server: ws://HOST:PORT.",
            autocompletion=complete_policy,
        ),
    ] = None,
    env: EnvOption = None,
    suite: SuiteOption = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK,...",
            help="Of a suite: names, numbers from 0, or ranges such as 2-5; may be repeated.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="In place of a simulator: recorded episodes, a LeRobot data set. Those that the "
            "run of the policy held out, if it is the data set of the run.",
        ),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Episodes to play, by default 20; of each task of a suite, 50."),
    ] = None,
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
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of a suite's results, where the same command goes on after a kill; else "
            "out/eval-SUITE.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Play one of N shares of a suite, such as 2/8."),
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Merge the shards of a suite in DIR; plays nothing."),
    ] = None,
    films: Annotated[
        int,
        typer.Option(min=0, help="Films of each task of a suite, of successes and of failures."),
    ] = 1,
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
    column: Column = None,
    real_time: Annotated[
        bool,
        typer.Option(
            "--real-time",
            help="The world goes on while the policy computes, for as long as --delay-ms says.",
        ),
    ] = False,
    delay_ms: Annotated[
        str | None,
        typer.Option(
            metavar="MS",
            help="Milliseconds from an observation to its chunk: 120, or drawn from 80-150, or "
            "with one in 20 of 500 ms: 120,500/20.",
        ),
    ] = None,
    chunk_merge: Annotated[
        Literal["replace", "weighted", "append"],
        typer.Option(help="With --real-time: how a chunk continues the one before."),
    ] = "replace",
    prefix_mode: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="With --real-time: how the policy is given what is executed meanwhile: trained, "
            "guided, freeze or none; by default what it takes.",
        ),
    ] = "auto",
    overrides: Overrides = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Run episodes with a policy and report its success rate.

    In one environment (--env), or in all tasks of a benchmark (--suite), whose episodes are kept
    one by one: the same command goes on where it was interrupted. With --data nothing is played:
    imagined frames and actions are compared with recorded ones.

    The interval is Wilson's, of 95 %. The same seeds give the same result.
    """
    if merge is not None:
        if policy is not None or suite is not None or env is not None:
            raise WamkitError("--merge plays nothing", "type wamkit eval --merge DIR alone")
        merge_shards(merge, json=json)
        return
    if policy is None:
        raise WamkitError(
            "no policy", "name a saved policy, a baseline (random or expert), or ws://HOST:PORT"
        )
    if (count := sum(given is not None for given in (env, suite, data))) != 1:
        raise WamkitError(
            f"{'several' if count else 'none'} of --env, --suite and --data",
            "choose one: --env metaworld:reach-v3, --suite mt10, or --data DIR",
        )
    expect_seed(seed, "--seed", room=episodes or 50)
    acting = PolicyOptions(
        policy,
        execute_steps,
        choice or [],
        view or [],
        overrides or [],
        device,
        parse_real_time(real_time, delay_ms, chunk_merge, prefix_mode),
    )
    if data is not None:
        if real_time:
            raise WamkitError("--real-time is of --env and --suite", "leave it out")
        if record is not None or dataset is not None or env_settings:
            raise WamkitError("--record, --dataset and --env-arg are of --env", "leave them out")
        recorded = RecordedOptions(data, episodes or 20, seed, column or [])
        evaluate_data(recorded, acting, json=json)
        return
    if column:
        raise WamkitError("--key-map is of --data", "with --env: --camera-map VIEW=CAMERA")
    if suite is not None:
        if record is not None or dataset is not None:
            raise WamkitError(
                "--record and --dataset are of --env", "a suite has --out DIR and --films N"
            )
        share = SuiteOptions(
            suite,
            tasks or [],
            episodes or 50,
            seed,
            processes,
            env_settings or [],
            shard,
            out,
            films,
            film,
        )
        run_suite(share, acting, json=json)
        return
    if tasks or shard or out is not None:
        raise WamkitError("--tasks, --shard and --out are of --suite", "with --env: --record DIR")
    assert env is not None
    task = TaskOptions(
        env, env_settings or [], episodes or 20, seed, processes, record, film, dataset
    )
    evaluate_task(task, acting, json=json)

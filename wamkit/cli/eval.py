"""`wamkit eval`: a policy, or a baseline, in closed loop in a simulator; how often it succeeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..config.seeds import MOST, expect_seed
from ..errors import WamkitError
from ._completion import complete_policy
from ._env_options import EnvOption, EnvSettings, Processes, SuiteOption
from ._eval_options import expect_actor, expect_films, expect_used
from ._eval_policy import PolicyOptions
from ._eval_suite import SuiteOptions, merge_shards, run_suite
from ._eval_task import TaskOptions, evaluate_task
from ._imagined import RecordedOptions, evaluate_data
from ._options import Column, Device, Json, Overrides
from ._real_time import parse_real_time

PRINTS_TABLES = True
EXAMPLE = "wamkit eval runs/press/policy --env metaworld:button-press-topdown-v3 --record films"


def command(
    context: typer.Context,
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
            "with one in 20 of 500 ms: 120,500/20. In actions, d of the usual delay must fit: "
            "d <= --execute-steps <= chunk - d; a spike may be longer: the robot then stands "
            "still, which is counted.",
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
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With a server: its first key is sent, as `wamkit serve --api-key-file` wants.",
        ),
    ] = None,
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
    typed = {p.name or "" for p in context.command.params if _is_typed(context, p.name)}
    flags = {p.name or "": p.opts[0] for p in context.command.params} | {"policy": "POLICY"}
    if merge is not None:
        expect_used("merge", None, typed, flags.__getitem__)
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
    target = "env" if env is not None else "suite" if suite is not None else "data"
    expect_actor(target, policy)
    expect_used(target, policy, typed, flags.__getitem__)
    expect_films(target, record=record, films=films, typed="film" in typed)
    expect_seed(seed, "--seed", room=episodes or 50)
    acting = PolicyOptions(
        policy,
        execute_steps,
        choice or [],
        view or [],
        overrides or [],
        device,
        parse_real_time(real_time, delay_ms, chunk_merge, prefix_mode),
        api_key_file,
    )
    if data is not None:
        recorded = RecordedOptions(data, episodes or 20, seed, column or [])
        evaluate_data(recorded, acting, json=json)
    elif suite is not None:
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
    else:
        assert env is not None
        task = TaskOptions(
            env, env_settings or [], episodes or 20, seed, processes, record, film, dataset
        )
        evaluate_task(task, acting, json=json)


def _is_typed(context: typer.Context, name: str | None) -> bool:
    """Whether a parameter was typed, be it with the value that it has by default."""
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"

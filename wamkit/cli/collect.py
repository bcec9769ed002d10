"""`wamkit collect`: a scripted expert plays in a simulator, and its successes become a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config.seeds import MOST
from ..errors import WamkitError
from ..files.durable import recover
from ..files.paths import expand_home
from ._env_options import Env, EnvSettings, Processes, progress
from ._options import Json
from ._output import emit, note, say, show_table, table

if TYPE_CHECKING:
    from ..simulate.episodes import Rollout

EXAMPLE = "wamkit collect metaworld:button-press-topdown-v3 --episodes 60 --out demos"

KEEP_EVERY = 25  # episodes; nothing that happens later takes them away


def command(
    env: Env,
    out: Annotated[Path, typer.Option(help="Folder of the LeRobot data set to write.")],
    episodes: Annotated[int, typer.Option(min=1, help="Successful episodes to record.")] = 50,
    noise: Annotated[
        float,
        typer.Option(
            min=0,
            help="Std of noise on executed actions, relative to half the action range; "
            "the clean action is recorded.",
        ),
    ] = 0.1,
    linger: Annotated[
        int,
        typer.Option(
            "--post-success-steps", min=0, help="Actions recorded after the first success."
        ),
    ] = 4,
    seed: Annotated[
        int,
        typer.Option(min=0, max=MOST, help="Seed of the first attempt; the next ones count up."),
    ] = 0,
    processes: Processes = 2,
    size: Annotated[
        int | None,
        typer.Option(min=2, help="Height and width of images; same as --env-arg size=N."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Camera of the simulator; same as --env-arg camera=NAME.")
    ] = None,
    env_settings: EnvSettings = None,
    images: Annotated[
        Literal["video", "image"],
        typer.Option(
            "--image-format", help="Store images in mp4 files, or losslessly in the parquet tables."
        ),
    ] = "video",
    codec: Annotated[
        Literal["av1", "h264"] | None,
        typer.Option(help="Codec of mp4 files; by default av1, or that of the existing videos."),
    ] = None,
    add: Annotated[bool, typer.Option("--append", help="Append to an existing data set.")] = False,
    json: Json = False,
) -> None:
    """Record demonstrations of a scripted expert as a LeRobot data set.

    Only successes are kept. After Ctrl-C, or with more --episodes, the same command continues where
    it stopped; no seed is tried twice.
    """
    from ..simulate.env_pool import EnvPool
    from ..simulate.environment import choose
    from ..simulate.record import CollectionConfig, collect, open_dataset

    short = {"size": size, "camera": camera}
    settings = [f"{key}={value}" for key, value in short.items() if value is not None]
    out = recover(expand_home(out))
    config = choose(env, [*settings, *(env_settings or [])])
    asked = CollectionConfig(config, seed, noise, linger)
    there = out.exists() and (not out.is_dir() or any(out.iterdir()))
    before = asked.count_kept(out)
    if there and not (add or before):
        raise WamkitError(
            f"{out} is there already, and not from the same command",
            "choose another folder, or --append episodes to it",
        )
    begin, made_now = perf_counter(), 0
    with (
        EnvPool(config, max(1, processes), apart=processes > 0) as workers,
        progress("episodes", max(0, episodes - before)) as (advance, log),
        open_dataset(out, workers.robot(), images, codec) as made,
    ):

        def on_rollout(rollout: Rollout) -> None:
            nonlocal made_now
            if rollout.success:
                made_now += len(rollout.frames)
                advance()
            else:
                log(f"seed {rollout.seed}: no success in {rollout.steps} actions, left out")

        try:
            done = collect(
                workers,
                made,
                episodes,
                seed=seed,
                noise=noise,
                post_success_steps=linger,
                keep_every=KEEP_EVERY,
                on_rollout=on_rollout,
            )
        except KeyboardInterrupt:
            if kept := asked.count_kept(out):
                note(f"{kept} of {episodes} episodes are in {out}; the same command continues")
            raise
    spent = perf_counter() - begin
    found: dict[str, Any] = {
        "out": str(out),
        "environment": env,
        "episodes": done.episodes,
        "there_already": before,
        "frames": done.frames,
        "attempts": done.attempts,
        "success_rate": done.episodes / done.attempts,
        "seeds": list(done.seeds),
        "control_hz": made.fps,
        "seconds": spent,
    }
    if json:
        emit(found)
        return
    _draw(found, made_now)
    say(f"wrote {out}", whole=True)
    note(f"look at it: wamkit data show {out}")


def _draw(found: Mapping[str, Any], made_now: int) -> None:
    """Summarize the collection; `made_now` counts the frames of this call."""
    rows = table("", "")
    rows.show_header = False
    seeds, spent = found["seeds"], found["seconds"]
    for label, value in (
        ("episodes", f"{found['episodes']}, {found['there_already']} of them there already"),
        ("frames", str(found["frames"])),
        ("success of the expert", f"{found['episodes']} of {found['attempts']}"),
        ("seeds", f"{seeds[0]} to {seeds[1]}"),
        ("frames a second", f"{found['control_hz']:g} recorded, {made_now / spent:.0f} made"),
        ("seconds", f"{spent:.1f}"),
    ):
        rows.add_row(label, value)
    show_table(rows)

"""`wamkit demo`: demonstrations, a policy trained on them, its evaluation, and a page about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config.registry import registry
from ...config.seeds import MOST, expect_seed
from ...errors import SpecError, WamkitError
from ...files import plots
from .._completion import complete_paradigm_or_all
from .._env_options import complete_environment
from .._options import Json
from .._output import FOUND, console, emit, note, say, show_table, table

if TYPE_CHECKING:
    from ...config.spec import PolicySpec
    from .stages import Demo, Found, OpenProgress, Report, Settings, Way

EXAMPLE = "wamkit demo --out demo"

BASELINES = ("random", "expert")


def command(
    out: Annotated[Path, typer.Option(help="Folder of all that is made.")] = Path("demo"),
    task: Annotated[
        str,
        typer.Option(
            metavar="NAME:TASK",
            help="A task of Meta-World that has an expert.",
            autocompletion=complete_environment,
        ),
    ] = "metaworld:button-press-topdown-v3",
    episodes: Annotated[int, typer.Option(min=2, help="Demonstrations to learn from.")] = 60,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = 1500,
    eval_episodes: Annotated[int, typer.Option(min=1, help="Episodes to evaluate with.")] = 20,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST, help="The same seed gives the same demo.")
    ] = 0,
    paradigm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How it acts; `all` trains and compares every one installed.",
            autocompletion=complete_paradigm_or_all,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only show the way: 4 demonstrations, 20 updates, 1 episode."),
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Simulators side by side, each in a process.")
    ] = 2,
    json: Json = False,
) -> None:
    """Make a policy from nothing in a simulator, and write OUT/report.html about it.

    A scripted expert shows the task, a small world-action model learns it on this CPU, and is
    compared with the expert and with random actions. Ctrl-C stops at any time (exit code 130); the
    same command goes on from there.
    """
    from .stages import Settings

    settings = Settings(task, episodes, steps, eval_episodes, seed)
    if quick:
        settings = Settings(task, 4, 20, 1, seed, batch=8, max_steps=100)
    expect_seed(settings.seed, "--seed", room=settings.first - seed + settings.eval_episodes)
    plots.expect_plots()
    try:
        demo = _made(out, settings, paradigm, processes)
    except KeyboardInterrupt:
        note("stopped; the same command goes on from here")
        raise
    from ..explain import explain_spec
    from .page import write

    explanation = {way.name: explain_spec(way.spec) for way in demo.ways if way.spec is not None}
    page = write(out / "report.html", demo, explanation)
    if json:
        emit(_plain(page, demo))
    else:
        _draw(page, demo)
    if all(way.problem for way in demo.ways):
        raise typer.Exit(FOUND)


def _made(out: Path, settings: Settings, paradigm: str | None, processes: int) -> Demo:
    """Run every stage that has not been run yet."""
    from .film import record_films
    from .stages import Demo, begin, demonstrations, expect_fit, judged, opened, played, spec_of

    every = paradigm == "all"
    first = spec_of(None if every else paradigm, settings.seed)
    with _progress() as progress, opened(settings, processes) as workers:
        expect_fit(first, workers)
        begin(out, settings)
        data = demonstrations(out, settings, workers, progress)
        baselines = {who: played(out, settings, workers, who, progress) for who in BASELINES}
        if every:
            names = registry().names("paradigm")
            ways = [_tried(out, settings, name, workers, progress) for name in names]
        else:
            ways = [judged(out, settings, first, workers, progress)]
        ways.sort(key=lambda way: way.rank)
        best = ways[0]
        film = None if best.problem else record_films(out, best, workers, progress)
    return Demo(settings, data, baselines, tuple(ways), film)


def _tried(out: Path, settings: Settings, name: str, workers: Any, progress: OpenProgress) -> Way:
    """One of several paradigms; an error is reported and does not stop the others."""
    from .stages import Way, judged, spec_of

    spec: PolicySpec | None = None
    try:
        spec = spec_of(name, settings.seed)
        return judged(out, settings, spec, workers, progress)
    except SpecError as problem:
        message = "; ".join(f"{found.why} ({found.hint})" for found in problem.conflicts)
    except WamkitError as problem:
        message = f"{problem.what} ({problem.hint})"
    except Exception as problem:  # of a plugin: reported like the others
        message = f"{type(problem).__name__}: {problem}"
    note(f"{name}: {message}")
    return Way(name, spec, problem=message)


@contextmanager
def _progress() -> Iterator[OpenProgress]:
    """Lines on stderr, one for each stage, that stay; a pipe gets a line when one begins."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        Remaining(),
        TextColumn("{task.fields[remark]}", markup=False),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:

        @contextmanager
        def progress(what: str, total: int) -> Iterator[Report]:
            if not bar.console.is_terminal:
                note(what)
            task = bar.add_task(what, total=total, remark="")
            yield lambda done, remark: bar.update(task, completed=done, remark=remark)

        yield progress


def _plain(page: Path, demo: Demo) -> dict[str, Any]:
    return {
        "report": str(page),
        "data": demo.data,
        "baselines": demo.baselines,
        "policies": {
            way.name: {
                "training": way.training,
                "result": way.result,
                "imagined": way.imagined,
                "problem": way.problem,
            }
            for way in demo.ways
        },
        "film": demo.film,
    }


def _draw(page: Path, demo: Demo) -> None:
    heads = ("successes", "95 % interval", "ms", "training, s")
    made = table("who acts", *heads, right=heads[2:], keep=("who acts", *heads))
    for way in demo.ways:
        if way.result is None or way.training is None:
            made.add_row(way.name, "no result", "", "", "")
        else:
            time = f"{way.result['latency_ms']['policy']['p50']:.1f}"
            made.add_row(way.name, *_score(way.result), time, f"{way.training['seconds']:.0f}")
    for name, found in demo.baselines.items():
        made.add_row(name, *_score(found), "", "")
    show_table(made)
    say("ms: median time of a decision, for all episodes that run side by side")
    say(f"wrote {page}", whole=True)


def _score(found: Found) -> tuple[str, str]:
    low, high = found["interval_95"]
    return f"{found['successes']} of {found['episodes']}", f"{low:.0%} to {high:.0%}"

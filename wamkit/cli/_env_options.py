"""What `collect` and `eval` share: how an environment is named, and a bar with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ..config.registry import registry
from ..config.suites import suites
from ._completion import filter_prefix
from ._output import console


def complete_environment(incomplete: str) -> list[str]:
    """The environments that begin like this, and behind a colon the tasks of one."""
    found = registry()
    candidates = list(names := found.names("environment"))
    for name in names:
        if incomplete.startswith(f"{name}:"):
            cls: Any = found.get("environment", name)
            candidates += [f"{name}:{task}" for task in cls.subjects]
    return filter_prefix(candidates, incomplete)


def complete_suite(incomplete: str) -> list[str]:
    """The suites of the installed environments that begin like this."""
    return filter_prefix(suites(), incomplete)


ENV_HELP = "An environment (`wamkit list environment`), with its task after a colon."
Env = Annotated[
    str,
    typer.Argument(metavar="NAME[:TASK]", help=ENV_HELP, autocompletion=complete_environment),
]
_ENV = typer.Option(
    "--env", metavar="NAME[:TASK]", help=ENV_HELP, autocompletion=complete_environment
)
RequiredEnv = Annotated[str, _ENV]
EnvOption = Annotated[str | None, _ENV]
SuiteOption = Annotated[
    str | None,
    typer.Option(
        "--suite",
        help="A benchmark: all its tasks, by its protocol (`wamkit list environment`).",
        autocompletion=complete_suite,
    ),
]
EnvSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--env-arg",
        metavar="KEY=VALUE",
        help="Set one key of the environment (`wamkit show environment NAME`); may be repeated.",
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        min=0,
        help="Number of simulator processes; 0 runs one in this process, for debugging.",
    ),
]


@contextmanager
def progress(
    what: str, total: int | None
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar on stderr while something is counted, to `total` if it is known: a step, and a line."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    name = TextColumn(what, markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), Elapsed(), Remaining())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield (lambda: bar.advance(task)), (lambda line: bar.console.print(line, style="dim"))

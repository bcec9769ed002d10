"""What the verbs share of printing: data on stdout, everything else on stderr, errors in words."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ..errors import SpecError, WamkitError
from ..parts import Conflict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DEBUG = "WAMKIT_DEBUG"

FOUND = 1  # exit code: a check found something
BAD = 2  # exit code: bad usage or bad input
INTERRUPTED = 130  # exit code: Ctrl-C, as shells count it


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is; lines of a pipe are as long as they need to be."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 1000
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def say(text: str = "", style: str | None = None) -> None:
    """One line of the answer, on stdout; never wrapped, so that it can be copied."""
    console().print(text, style=style, soft_wrap=True)


def note(text: str) -> None:
    """One line beside the answer, on stderr."""
    console(stderr=True).print(f"note: {text}", style="dim", soft_wrap=True)


def emit(data: Any, indent: int | None = 2) -> None:
    """The answer as JSON, on stdout."""
    print(json.dumps(data, indent=indent))


def busy(what: str) -> AbstractContextManager[Any]:
    """Say on a terminal's stderr that something takes its time; a pipe sees nothing of it."""
    return console(stderr=True).status(f"{what} ...")


def table(*columns: str, right: Iterable[str] = (), keep: Iterable[str] = ()) -> Table:
    """An empty table; columns named in `right` are numbers, those in `keep` are not wrapped."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    right, keep = set(right), set(keep)
    made = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        header_style="bold",
    )
    for name in columns:
        justify: Any = "right" if name in right else "left"
        made.add_column(name, justify=justify, no_wrap=name in right | keep, overflow="fold")
    return made


def show_table(made: Table) -> None:
    """Print a table on stdout."""
    console().print(made)


def mark(filled: bool) -> str:
    """A filled or an empty place, in characters that stdout can print."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return ("■" if filled else "·") if "utf" in encoding else ("#" if filled else ".")


def conflict_lines(conflicts: Sequence[Conflict]) -> str:
    """Conflicts numbered from 1, each with what to do."""
    lines = []
    for number, conflict in enumerate(conflicts, 1):
        lead = f"  {number}. "
        lines.append(f"{lead}{' + '.join(conflict.between)}: {conflict.why}")
        lines.append(f"{' ' * len(lead)}hint: {conflict.hint}")
    return "\n".join(lines)


def error(what: str, hint: str = "", details: str = "") -> None:
    """Print `error: what`, details, and `hint: hint` on stderr."""
    from rich.text import Text

    line = Text.assemble(("error: ", "bold red"), what)
    if details:
        line.append(f"\n{details}")
    if hint:
        line.append("\nhint: ", "bold").append(hint)
    console(stderr=True).print(line, soft_wrap=True)


def polite(command: Callable[..., None]) -> Callable[..., None]:
    """`command` such that what goes wrong ends in words and an exit code, never a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _leave_pipe()
        except SpecError as problem:
            first = problem.what.splitlines()[0]
            error(first, details=conflict_lines(problem.conflicts))
            raise typer.Exit(BAD) from None
        except WamkitError as problem:
            error(problem.what, problem.hint)
            raise typer.Exit(BAD) from None
        except OSError as problem:
            error(str(problem), "check the path, its permissions and the space that is left")
            raise typer.Exit(BAD) from None
        except Exception as problem:
            _unexpected(problem)

    return run


def _leave_pipe() -> NoReturn:
    """Whoever read stdout has gone: end without the complaint Python prints at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(128 + 13)


def _unexpected(problem: Exception) -> NoReturn:
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        error(f"out of memory: {problem}", "try --tiny, --set dtype=bfloat16 or another --device")
    elif os.environ.get(DEBUG):
        import traceback

        traceback.print_exception(problem)
    else:
        error(
            f"a bug in wamkit or in a plugin: {type(problem).__name__}: {problem}",
            f"set {DEBUG}=1 to see where it happened",
        )
    raise typer.Exit(BAD) from None

"""Printing of all verbs: data on stdout, notes and errors on stderr."""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ..acceleration.torchao_messages import silence_torchao
from ..config.parts import Finding
from ..errors import SpecError, WamkitError, printable, shortened
from ..files import strict_json
from ..files.variables import DEBUG
from ._folding import GLUE, fold, folds, width
from ._tables import Column, Table

if TYPE_CHECKING:
    from rich.console import Console

FOUND = 1  # exit code: a check found something
BAD = 2  # exit code: bad usage or bad input
SCHEMA_VERSION = 1
"""Of what `--json` prints, see `docs/json.md`: raised when a key goes or changes its meaning."""
LINE = 4000  # characters of a line of an error, which may quote untrusted text
LINES = 200  # of an error or a note
INTERRUPTED = 130  # exit code: Ctrl-C, as shells count it


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is; lines of a pipe are as long as they need to be.

    All output of verbs passes here, and control characters are escaped
    (`wamkit.files.printable`), but for the styles and cursor moves of rich itself.
    """
    stream = sys.stderr if stderr else sys.stdout
    columns = None if stream.isatty() or "COLUMNS" in os.environ else 1000
    made: Console = _console_class()(
        stderr=stderr, width=columns, markup=False, highlight=False, emoji=False
    )
    return made


@functools.cache
def _console_class() -> Any:
    """rich's console, of which every piece of text is printable."""
    from rich.console import Console
    from rich.segment import Segment

    class Printing(Console):
        def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
            for piece in super().render(*args, **options):
                plain = printable(piece.text)
                yield piece if piece.control or plain == piece.text else Segment(plain, piece.style)

    return Printing


def say(text: str = "", style: str | None = None, *, whole: bool = False) -> None:
    """A paragraph of the answer, on stdout; a terminal's lines end at spaces.

    Text to be copied is `whole`: its lines are not folded.
    """
    text = printable(text)
    if folds() and not whole:
        text = "\n".join(
            line for each in text.split("\n") for line in fold(each, width(), " " * _lead(each))
        )
    console().print(text.replace(GLUE, " "), style=style, soft_wrap=True)


def _lead(line: str) -> int:
    """Columns before the text of a line: spaces, and the number of an entry."""
    found = re.match(r" *(\d+\. )?", line)
    return found.end() if found else 0


def note(text: str) -> None:
    """Print a one-line note on stderr."""
    console(stderr=True).print(f"note: {_cut(text)}", style="dim", soft_wrap=True)


def emit(data: Mapping[str, Any], indent: int | None = 2) -> None:
    """The answer as JSON, on stdout, as `docs/schemas` describes it."""
    emit_raw(versioned(data), indent)


def versioned(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with the version of its schema before it."""
    return {"schema_version": SCHEMA_VERSION, **data}


def emit_raw(data: Any, indent: int | None = 2) -> None:
    """JSON on stdout that is a document by itself, such as a JSON Schema."""
    print(strict_json.dumps(data, indent=indent).replace("\x7f", "\\u007f"))


def spinner(what: str) -> AbstractContextManager[Any]:
    """Show progress on a terminal's stderr; print nothing to a pipe."""
    from rich.text import Text

    return console(stderr=True).status(Text(printable(f"{what} ...", lines=False)))


def table(
    *columns: str,
    right: Iterable[str] = (),
    keep: Iterable[str] = (),
    center: Iterable[str] = (),
    keys: int = 1,
) -> Table:
    """An empty table, whose first `keys` columns identify a row.

    Columns named in `right` are numeric, those in `center` marks; they and those in `keep` are
    never folded. The others are text, which is folded at spaces.
    """
    right, center = set(right), set(center)
    whole = right | center | set(keep)

    def column(name: str) -> Column:
        justify: Any = "right" if name in right else "center" if name in center else "left"
        return Column(printable(name), justify, name in whole)

    return Table([column(name) for name in columns], keys=keys)


def show_table(made: Table) -> None:
    """Print a table on stdout, laid out for the width at hand; nothing in it is cut or split."""
    out = console()
    for line in made.lines(width(), "─" if _unicode() else "-"):
        out.print(line.text, style=line.style, soft_wrap=True)


def _unicode() -> bool:
    return "utf" in (getattr(sys.stdout, "encoding", None) or "ascii").lower()


def mark(filled: bool) -> str:
    """A filled or an empty place, in characters that stdout can print."""
    return ("■" if filled else "·") if _unicode() else ("#" if filled else ".")


def conflict_lines(conflicts: Sequence[Finding]) -> str:
    """Conflicts or warnings numbered from 1, each with what to do."""
    lines = []
    for number, conflict in enumerate(conflicts, 1):
        lead = f"  {number}. "
        lines.append(f"{lead}{' + '.join(conflict.between)}: {conflict.why}")
        lines.append(f"{' ' * len(lead)}hint: {conflict.hint}")
    return "\n".join(lines)


def _cut(text: str) -> str:
    """`text` for the terminal: at most `LINES` lines, each with at most `LINE` characters."""
    lines = text.split("\n")
    if (more := len(lines) - LINES) > 0:
        lines = [*lines[:LINES], f"... and {more:,} more lines"]
    return "\n".join(shortened(line, LINE) for line in lines)


def error(what: str, hint: str = "", details: str = "") -> None:
    """Print `error: what`, details, and `hint: hint` on stderr."""
    from rich.text import Text

    line = Text.assemble(("error: ", "bold red"), _cut(what))
    if details:
        line.append(f"\n{_cut(details)}")
    if hint:
        line.append("\nhint: ", "bold").append(_cut(hint))
    console(stderr=True).print(line, soft_wrap=True)


def polite(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap `command` to turn errors into a message and an exit code, without traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        silence_torchao()
        try:
            _expect_finite(kwargs)
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
            _report_bug(problem)

    return run


def _expect_finite(options: Mapping[str, Any]) -> None:
    """Raise WamkitError for an option that is NaN or infinite, which no bound refuses."""
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise WamkitError(f"--{name.replace('_', '-')} is {value}", "give a finite number")


def _leave_pipe() -> NoReturn:
    """The reader of stdout has closed it: exit without the warning of Python."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(128 + 13)


_ROOM = re.compile(r"allocate memory|size calculation overflowed|multiplication overflow")


def _is_memory(problem: Exception) -> bool:
    """True if there was no room, in Python, on a device, or for a tensor that cannot exist."""
    known = isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError"
    return known or (isinstance(problem, RuntimeError) and bool(_ROOM.search(str(problem))))


def _report_bug(problem: Exception) -> NoReturn:
    if _is_memory(problem):
        error(f"out of memory: {problem}", "try --tiny, --set dtype=bfloat16 or another --device")
    elif os.environ.get(DEBUG):
        import traceback

        print(printable("".join(traceback.format_exception(problem))), file=sys.stderr)
    else:
        from ..config.registry import registry

        plugin = registry().blame(problem)
        owner = f"{plugin.name} (from {plugin.distribution} {plugin.version})" if plugin else ""
        error(
            f"a bug in {owner or 'wamkit or in a plugin'}: {type(problem).__name__}: {problem}",
            f"set {DEBUG}=1 to see where it happened",
        )
    raise typer.Exit(BAD) from None

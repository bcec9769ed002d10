"""The cells of a sweep one after the other: what is finished is kept, what is not is run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...config.runs import is_folder
from ...errors import WamkitError
from .cells import Cell
from .options import args_of
from .progress import Progress
from .records import Record, identity, read_record
from .results import Result, interval_of, metrics_of
from .runs import is_begun, run


def run_cells(
    verb: str,
    source: Path,
    cells: Sequence[Cell],
    out: Path,
    overrides: Sequence[str],
    args: Sequence[str],
) -> tuple[list[Result], bool]:
    """Run every cell that fits and is not finished. Returns all results, and if it was stopped.

    Raises WamkitError before any runs if a folder holds other work.
    """
    typed: dict[Cell, tuple[list[str], str]] = {}
    for cell in cells:
        if not cell.refused:
            folder = out / cell.point.folder
            line = args_of(verb, source, folder, cell.point, overrides, args)
            typed[cell] = line, _identity(verb, source, cell, folder, args)
    _expect_own(verb, out, {cell: same for cell, (_, same) in typed.items()})
    results, stopped = list[Result](), False
    with Progress(len(typed)) as progress:
        for cell in cells:
            if cell not in typed:
                results.append(result_of(verb, cell, None, out))
                continue
            folder, (line, same) = out / cell.point.folder, typed[cell]
            record, fresh = read_record(folder, verb), False
            if not stopped and (record is None or record.state != "done"):
                progress.begin(cell.label)
                resume = ["--resume"] if verb == "train" and is_begun(folder) else []
                record = run(folder, verb, [*line, *resume], same, partial(progress.look, folder))
                fresh = True
                stopped = record.state == "interrupted"
            results.append(result_of(verb, cell, record, out))
            if not stopped or fresh:
                progress.end(verb, results[-1], fresh=fresh)
    return results, stopped


def result_of(verb: str, cell: Cell, record: Record | None, out: Path) -> Result:
    """What became of a cell, from its record."""
    if cell.refused:
        return Result(cell, "refused")
    if verb == "check":
        tokens = {} if cell.tokens is None else {"tokens": float(cell.tokens)}
        return Result(cell, "fits", metrics=tokens)
    if record is None:
        return Result(cell, "waiting")
    metrics = metrics_of(verb, record.report, out / cell.point.folder)
    interval = interval_of(record.report)
    return Result(cell, record.state, record.seconds, record.error, metrics, interval)


def _identity(verb: str, source: Path, cell: Cell, folder: Path, args: Sequence[str]) -> str:
    """Of the work in a cell, wherever its folder lies."""
    decisive = [*cell.point.training, *args]
    if is_folder(source):
        decisive.append(str(source.absolute()))
    elif verb == "eval":  # of what training came to
        trained = read_record(folder, "train")
        decisive.append(str(trained and trained.report))
    return identity(verb, cell.spec or {}, decisive)


def _expect_own(verb: str, out: Path, wanted: dict[Cell, str]) -> None:
    """Raise WamkitError if folders hold results of another spec or of other options."""
    strange = []
    for cell, same in wanted.items():
        folder = out / cell.point.folder
        record = read_record(folder, verb)
        kept = verb == "train" and is_begun(folder)
        if record is not None and record.identity != same and (kept or record.state == "done"):
            strange.append(cell.point.folder)
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise WamkitError(
            f"in {out}, {', '.join(strange[:3])}{more} hold results of {verb} with another spec or "
            "other options",
            "choose another --out, or remove these folders",
        )

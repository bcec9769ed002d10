"""Statistics of ImageWAM's runs (`dataset_stats.json`) as rows that normalize in the same way.

Its normalizer (`SingleFieldLinearNormalizer`) moves a number to 0 if its range is below 1e-4, and
divides by the deviation plus 1e-8; wamkit moves only what never changes, and divides by the
deviation. The rows are changed so that both do the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.source import Source
from wamkit.errors import WamkitError

if TYPE_CHECKING:
    from . import ImageWAM

ROWS = ("min", "max", "mean", "std", "q01", "q99")
LEAST_RANGE = 1e-4
ADDED_TO_STD = 1e-8
Rows = dict[str, list[float]]


def read_statistics(
    importer: ImageWAM, source: Source, rules: Mapping[str, str]
) -> dict[str, Rows]:
    """The rows for "action" and "state"; {} if there is no file. `rules` are ours for both.

    Raises WamkitError if a table or a row is missing.
    """
    file = source.find("dataset_stats.json", "*dataset_stats.json")
    if file is None:
        return {}
    raw = source.json(file.relative_to(source.folder).as_posix())
    found = {}
    for name, rule in rules.items():
        tables = raw.get(name) if isinstance(raw, dict) else None
        if not isinstance(tables, dict) or not tables:
            raise WamkitError(
                f"{file} holds no table {name!r}", "name the statistics of ImageWAM's own training"
            )
        key = importer.embodiment or next(iter(tables))
        if key not in tables or (importer.embodiment is None and len(tables) > 1):
            raise WamkitError(
                f"{file} holds statistics of several data sets: {', '.join(tables)}",
                f"choose one: --set importer.embodiment={next(iter(tables))}",
            )
        table = tables[key]
        if lost := [row for row in ROWS if not isinstance(table.get(f"global_{row}"), list)]:
            raise WamkitError(
                f"{file} lacks global_{', global_'.join(lost)} of {name}",
                "copy the whole file again",
            )
        found[name] = adapt({row: table[f"global_{row}"] for row in ROWS}, rule)
    return found


def adapt(rows: Mapping[str, Sequence[Any]], rule: str) -> Rows:
    """Rows by which wamkit's `rule` gives what ImageWAM's normalizer gives for `rows`."""
    found = {row: list(values) for row, values in rows.items()}
    low, high = ("q01", "q99") if rule == "quantile" else ("min", "max")
    for i in range(len(found["min"])):
        if rule == "mean_std":
            found["std"][i] += ADDED_TO_STD
            if not found["max"][i] > found["min"][i]:
                width = 1e-6 * max(1.0, abs(found["min"][i]))
                found["min"][i], found["max"][i] = found["min"][i] - width, found["max"][i] + width
        elif found[high][i] - found[low][i] < LEAST_RANGE:
            value = found[low][i]
            for row in found:
                found[row][i] = 0.0 if row == "std" else value
    return found

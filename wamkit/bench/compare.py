"""Compare two reports of one policy on one machine, as ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import WamkitError

HARDWARE = ("device", "name", "cores", "processors", "capability", "instructions")
"""Keys of a machine that describe its hardware."""
SETTINGS = ("threads",)
"""Keys of a machine that the user sets."""
CHOICES = ("mode", "quantized", "dtype")
"""Keys of a report that are compared: ratios are printed, and differences reported."""
SOFTWARE = ("wamkit", "torch", "python")
FREE = ("dtype", "seed", "weights", "derived_from", "lora", "lora_scale", "embeddings_file")
"""Keys of a spec, anywhere in it, that do not change how much there is to compute."""


def compare_reports(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """stage -> how many times faster it is now than in an earlier report (`Report.json`).

    Raises WamkitError if the earlier one is of another machine or of another policy, or no report.
    """
    expect_report(before)
    machines = now["machine"], before["machine"]
    if found := _different(*machines, HARDWARE):
        raise WamkitError(
            f"the earlier report is of another machine: {found}",
            "measure both on the same machine; times on two machines do not compare the code",
        )
    if found := _different(*machines, SETTINGS):
        raise WamkitError(
            f"the earlier report was made with other settings of this machine: {found}",
            "measure both with the same OMP_NUM_THREADS",
        )
    sizes = {key: dict(_sizes(report)) for key, report in (("now", now), ("before", before))}
    keys = sorted({*sizes["now"], *sizes["before"]})
    if found := _different(sizes["now"], sizes["before"], keys):
        raise WamkitError(
            f"the earlier report is of other work: {found}",
            "measure both with the same spec, --tiny, --steps, --batch and --set; two policies "
            "are compared by `wamkit compare`",
        )
    older = {row["stage"]: row["median_ms"] for row in [*before["rows"], before["chunk"]]}
    newer = {row["stage"]: row["median_ms"] for row in [*now["rows"], now["chunk"]]}
    return {stage: older[stage] / ms for stage, ms in newer.items() if stage in older and ms > 0}


def differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, ...]:
    """Differences between two comparable reports."""
    pairs = [(now, before, CHOICES), (now["machine"], before["machine"], (*SOFTWARE, "load"))]
    return tuple(
        _difference(key, new.get(key), old.get(key))
        for new, old, keys in pairs
        for key in keys
        if new.get(key) != old.get(key)
    )


def expect_report(found: Mapping[str, Any]) -> None:
    """Raises WamkitError unless it is a report that `compare_reports` can compare with."""
    if not {"machine", "rows", "chunk"} <= set(found):
        raise WamkitError(
            "the earlier file is no report of `wamkit bench`", "write one with --json > FILE.json"
        )
    if "sizes" not in found or not set(HARDWARE) <= set(found["machine"]):
        raise WamkitError(
            "the earlier report lacks settings that its results depend on: another version of "
            "wamkit wrote it",
            "measure the earlier version again, with this version's `wamkit bench --json`",
        )


def _sizes(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything that decides how much a chunk computes, key by key."""
    yield "batch", report["batch"]
    yield "act_options", report["act_options"]
    yield from _leaves(report["sizes"], "")


def _leaves(table: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(table, Mapping):
        yield path.lstrip("."), list(table) if isinstance(table, tuple) else table
        return
    for key, value in table.items():
        if key not in FREE:
            yield from _leaves(value, f"{path}.{key}")


def _different(now: Mapping[str, Any], before: Mapping[str, Any], keys: Any, most: int = 4) -> str:
    """Describe the keys whose values differ; empty if none does."""
    found = [key for key in keys if now.get(key) != before.get(key)]
    differences = [_difference(key, now.get(key), before.get(key)) for key in found[:most]]
    return "; ".join(
        [*differences, *([f"and {len(found) - most} more"] if len(found) > most else [])]
    )


def _difference(key: str, now: Any, before: Any) -> str:
    was, is_ = (_short(value) for value in (before, now))
    return f"{key} was {was}, and is {is_}"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return "not there" if value is None else str(value)

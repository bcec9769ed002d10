"""Two reports of one machine against each other, as ratios."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import WamkitError

SAME = ("device", "name", "threads")


def versus(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """stage -> how many times faster it is now than in an earlier report (`Report.json`).

    Raises WamkitError if the earlier one is of another machine, or no report.
    """
    if not {"machine", "rows", "chunk"} <= set(before):
        raise WamkitError(
            "the earlier file is no report of `wamkit bench`", "write one with --json > FILE.json"
        )
    for key in SAME:
        if now["machine"][key] != before["machine"][key]:
            raise WamkitError(
                f"the earlier report is of another machine: {key} was {before['machine'][key]}, "
                f"and is {now['machine'][key]}",
                "measure both on the same machine; times of two machines say nothing of the code",
            )
    older = {row["stage"]: row["median_ms"] for row in [*before["rows"], before["chunk"]]}
    newer = {row["stage"]: row["median_ms"] for row in [*now["rows"], now["chunk"]]}
    return {stage: older[stage] / ms for stage, ms in newer.items() if stage in older and ms > 0}

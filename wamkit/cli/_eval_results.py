"""The result of a suite: its files, and the table that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import WamkitError
from ..files import strict_json
from ..files.durable import write_text
from ._output import note, say, show_table, table, versioned
from ._real_time import real_time_rows

if TYPE_CHECKING:
    from ..simulate.suite.files import SuiteFolder
    from ..simulate.suite.plan import PlannedEpisode


def publish(place: SuiteFolder, plan: Sequence[PlannedEpisode]) -> dict[str, Any]:
    """Write eval.json and the page of a folder, and return the result."""
    from ..simulate.suite.files import RESULT
    from ..simulate.suite.results import result_of

    about = place.read_settings()
    assert about is not None
    found = result_of(plan, place.read_episodes(), about["settings"], about["starts"])
    write_text(place.folder / RESULT, strict_json.dumps(versioned(found), indent=2) + "\n")
    try:
        from ..simulate.suite.page import write_page

        write_page(place, found)
    except WamkitError as error:
        note(f"no page: {error.what}; {error.hint}")
    return found


def draw(found: dict[str, Any]) -> None:
    """A row for each task, and one for all."""
    numbers = ("episodes", "successes", "rate", "95 % in", "actions", "to success")
    made = table("task", *numbers, right=numbers, keep=("task",))
    for row in [*found["tasks"], {"task": "all", **found}]:
        made.add_row(row["task"], *_cells(row))
    say(f"suite {found['suite']}: {found['policy']}", "bold")
    show_table(made)
    if (late := found.get("real_time")) is not None:
        timing = table("", "")
        timing.show_header = False
        for cells in real_time_rows(late):
            timing.add_row(*cells)
        show_table(timing)
    if not found["complete"]:
        note(f"{found['planned'] - found['episodes']} of {found['planned']} episodes are missing")
    for change in found["changed_versions"]:
        note(f"computed with several versions: {change}")


def _cells(row: dict[str, Any]) -> list[str]:
    if not row["episodes"]:
        return ["0", "", "", "", "", ""]
    low, high = row["interval_95"]
    solved = row["steps_to_success"]
    return [
        str(row["episodes"]),
        str(row["successes"]),
        f"{row['success_rate']:.1%}",
        f"[{low:.1%}, {high:.1%}]",
        f"{row['steps']:.0f}",
        "" if solved is None else f"{solved:.0f}",
    ]

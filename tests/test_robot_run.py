"""The statistics next to a run's checkpoint are those of the data set that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from wamkit.checkpoints.robot_run import ROWS, read_dataset_stats
from wamkit.checkpoints.source import Source
from wamkit.errors import WamkitError
from wamkit.files import strict_json

LOW = {"arm": -1.0, "legs": -2.0}
"""Data set -> its smallest value."""


def source_of(folder: Path, *names: str) -> Source:
    """A folder with the statistics of these data sets."""
    rows = {name: {f"global_{row}": [LOW[name]] for row in ROWS} for name in names}
    text = strict_json.dumps({"action": rows, "state": rows})
    (folder / "dataset_stats.json").write_text(text)
    return Source(folder)


@pytest.mark.parametrize(
    ("names", "embodiment", "expected"),
    [
        (("arm",), None, -1.0),
        (("arm",), "arm", -1.0),
        (("arm", "legs"), "arm", -1.0),
        (("arm", "legs"), "legs", -2.0),
    ],
)
def test_statistics_are_those_of_the_only_or_of_the_named_data_set(
    tmp_path: Path, names: tuple[str, ...], embodiment: str | None, expected: float
) -> None:
    found = read_dataset_stats(source_of(tmp_path, *names), embodiment)
    assert found == {kind: {row: [expected] for row in ROWS} for kind in ("action", "state")}


@pytest.mark.parametrize(
    ("names", "embodiment", "match"),
    [
        (("arm", "legs"), None, "several data sets: arm, legs"),
        (("arm", "legs"), "tail", "other data sets than 'tail': arm, legs"),
        (("arm",), "legs", "other data sets than 'legs': arm"),
    ],
)
def test_statistics_of_a_data_set_that_is_not_named_or_not_there_are_refused_with_those_there(
    tmp_path: Path, names: tuple[str, ...], embodiment: str | None, match: str
) -> None:
    with pytest.raises(WamkitError, match=match) as found:
        read_dataset_stats(source_of(tmp_path, *names), embodiment)
    assert "--set importer.embodiment=arm" in str(found.value)

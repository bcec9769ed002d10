"""Every way in which a data set can be broken is found, with its file, episode and frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder, Samples, check
from wamkit.data.video_writer import VideoWriter
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record

SMALL = Path(__file__).parent / "data" / "small.toml"
SPEC = parse(read(SMALL, ["state.size=2", "cameras.views.0.size=[16, 32]"]))
DATA = "data/chunk-000/file-000.parquet"
FILM = "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return record(tmp_path / "set", SPEC)


def _edit(folder: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Change columns of the frames, given as lists."""
    table = pq.read_table(folder / DATA)
    columns = table.to_pydict()
    change(columns)
    kept = {name: pa.array(values) for name, values in columns.items()}
    pq.write_table(pa.table(kept), folder / DATA)


def _info(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))


def _found(folder: Path, **options: Any) -> list[str]:
    return [str(finding) for finding in check(folder, **options)]


def test_a_whole_data_set_has_no_finding(folder: Path, tmp_path: Path) -> None:
    assert _found(folder, spec=SPEC, decode=True) == []
    assert _found(record(tmp_path / "images", SPEC, image_format="image"), decode=True) == []


def test_missing_files_are_found_each(folder: Path) -> None:
    (folder / DATA).unlink()
    (folder / FILM).unlink()
    assert _found(folder) == [f"{DATA}: is missing", f"{FILM}: is missing"]
    with pytest.raises(WamkitError, match="is missing"):
        Samples(folder, SPEC)


def test_a_damaged_parquet_is_found(folder: Path) -> None:
    (folder / DATA).write_bytes((folder / DATA).read_bytes()[:-200])
    (finding,) = _found(folder)
    assert finding.startswith(f"{DATA}: is damaged or incomplete")


def test_a_column_that_is_missing_is_found(folder: Path) -> None:
    _edit(folder, lambda columns: columns.pop("observation.state"))
    assert _found(folder) == [f"{DATA}: there is no column 'observation.state'"]


def test_a_wrong_shape_is_found(folder: Path) -> None:
    def shorten(columns: dict[str, list[Any]]) -> None:
        columns["action"] = [row[:2] for row in columns["action"]]
        columns["observation.state"][3] = [1.0]

    _edit(folder, shorten)
    assert _found(folder) == [
        f"{DATA}: 'observation.state' has a wrong shape: lists of different lengths",
        f"{DATA}, episode 0, frame 0: 'action' has 2 values, the metadata says [3]",
        f"{DATA}, episode 1, frame 0: 'action' has 2 values, the metadata says [3]",
    ]


def test_values_that_are_not_finite_are_found(folder: Path) -> None:
    def spoil(columns: dict[str, list[Any]]) -> None:
        columns["action"][5][1] = float("nan")
        columns["observation.state"][12 + 7][0] = float("inf")
        columns["observation.state"][12 + 9][0] = float("inf")

    _edit(folder, spoil)
    assert sorted(_found(folder)) == [
        f"{DATA}, episode 0, frame 5: 'action' is NaN or infinite in 1 frames, first number 1",
        f"{DATA}, episode 1, frame 7: 'observation.state' is NaN or infinite in 2 frames, first "
        "number 0",
    ]


def test_time_that_does_not_rise_is_found(folder: Path) -> None:
    def turn(columns: dict[str, list[Any]]) -> None:
        columns["timestamp"][12 + 4] = 0.1

    _edit(folder, turn)
    assert _found(folder) == [
        f"{DATA}, episode 1, frame 4: time goes from 0.3000 s to 0.1000 s, it must rise"
    ]
    with pytest.raises(WamkitError, match=r"episode 1, frame 4 is at 0.1000 s, 0.3000 s off"):
        Samples(folder, SPEC)


def test_another_rate_than_the_metadata_states_is_found(folder: Path) -> None:
    _info(folder, lambda info: info.update(fps=20))
    found = _found(folder, spec=SPEC)
    assert "the data set has" not in found[0] and "20 frames a second, the spec 10" in found[0]
    assert f"{DATA}, episode 0, frame 1: frames come 10 a second" in found[1]
    assert "the video has 10 images a second, meta/info.json says 20" in found[3]


def test_a_video_that_breaks_off_is_found(folder: Path) -> None:
    film = VideoWriter(folder / FILM, 10, (48, 64), "h264")
    for _ in range(18):
        film.add(np.zeros((48, 64, 3), np.uint8))
    film.close()
    assert _found(folder) == [
        f"{FILM}, episode 1, frame 6: no image for 6 of 12 frames: the video has 18 images up "
        "to 1.700 s"
    ]
    sample = Samples(folder, SPEC)
    with pytest.raises(WamkitError, match=r"no image at 2.2000 s .* the video has ended"):
        sample[12 + 10]
    (folder / FILM).write_bytes((folder / FILM).read_bytes()[:1000])
    assert _found(folder)[0].startswith(f"{FILM}: is no video or incomplete")


def test_images_that_do_not_decode_are_found(folder: Path) -> None:
    file = folder / FILM
    data = bytearray(file.read_bytes())
    middle = data.index(b"mdat") + 400
    data[middle : middle + 800] = bytes(800)
    file.write_bytes(data)
    assert _found(folder, decode=True)


def test_a_video_of_another_size_is_found(folder: Path) -> None:
    def enlarge(info: dict[str, Any]) -> None:
        info["features"]["observation.images.front"]["shape"] = [96, 64, 3]

    _info(folder, enlarge)
    assert _found(folder) == [
        f"{FILM}, episode 0, frame 0: 'observation.images.front' is 48x64, the metadata says 96x64"
    ]
    with pytest.raises(WamkitError, match="is 48x64, the metadata says 96x64"):
        Samples(folder, SPEC)[0]


def test_rows_that_do_not_match_the_metadata_are_found(folder: Path) -> None:
    _edit(folder, lambda columns: [values.pop() for values in columns.values()] and None)
    assert _found(folder) == [f"{DATA}, episode 1, frame 11: 11 rows, the metadata says 12 frames"]
    with pytest.raises(WamkitError, match="11 rows of episode 1, the metadata says 12"):
        Samples(folder, SPEC)


def test_missing_instructions_are_found(folder: Path) -> None:
    def forget(columns: dict[str, list[Any]]) -> None:
        columns["task_index"][6] = 9

    _edit(folder, forget)
    assert _found(folder) == [f"{DATA}, episode 0, frame 6: task 9 has no instruction"]


def test_an_image_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    folder = record(tmp_path / "images", SPEC, image_format="image")

    def spoil(columns: dict[str, list[Any]]) -> None:
        columns["observation.images.front"][3] = {"bytes": b"nothing", "path": None}

    _edit(folder, spoil)
    assert _found(folder) == []
    (finding,) = _found(folder, decode=True)
    assert "no readable image in episode 0 at frame 3" in finding


def test_metadata_that_cannot_be_read_is_the_one_finding(folder: Path) -> None:
    _info(folder, lambda info: info.pop("features"))
    (finding,) = _found(folder)
    assert "lacks features" in finding
    _info(folder, lambda info: info.update(features={}, codebase_version="v1.6"))
    (finding,) = _found(folder)
    assert "is of version v1.6; read are v2.0, v2.1 and v3.0" in finding
    with pytest.raises(WamkitError, match="no folder at"):
        check(folder / "nowhere")


def test_totals_that_disagree_are_found(folder: Path) -> None:
    _info(folder, lambda info: info.update(total_episodes=3))
    assert _found(folder) == ["meta/info.json: total_episodes is 3, the episodes' metadata has 2"]
    assert len(LeRobotFolder(folder).episodes) == 2

"""Times are as exact as their numbers can say; images are found by number where times drift."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from wamkit.config.spec import parse, read
from wamkit.data import Feature, LeRobotFolder, Samples, Writer, check
from wamkit.data.timing import find_late_frame
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record

SMALL = Path(__file__).parent / "data" / "small.toml"
TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SPEC = parse(read(SMALL, ["cameras.views.0.size=[16, 32]"]))
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
CAMERA = "observation.images.front"
FILM = f"videos/{CAMERA}/chunk-000/file-000.mp4"
Run = Callable[..., tuple[int, str, str]]
TICK = Fraction(1, 10_000)
TINY = Feature("image", (2, 2, 3))


def _ok(times: np.ndarray, fps: float, tolerance: float = 1e-4) -> bool:
    return find_late_frame(times, fps, tolerance)[0] is None


@pytest.mark.parametrize(
    ("fps", "seconds"),
    [(30, 2_400), (10, 40_000), (50, 20_000), (60, 86_400), (29.97, 7_200), (1000, 9_000)],
)
def test_rounding_of_float32_is_no_fault(fps: float, seconds: int) -> None:
    count = np.arange(int(fps * seconds))
    assert _ok((count / fps).astype(np.float32), fps)
    assert _ok(count.astype(np.float32) / np.float32(fps), fps) or fps * seconds > 2**24
    assert _ok(count / fps, fps)
    assert _ok((count / fps).astype(np.float32).astype(np.float64), fps)


@pytest.mark.parametrize("fps", [10, 29.97, 30, 50])
def test_times_that_were_added_up_in_float32_are_read_by_number(fps: float) -> None:
    steps = np.full(60_000, 1 / fps, np.float32)
    steps[0] = 0
    added = np.cumsum(steps, dtype=np.float32)
    assert abs(float(added[-1]) - 59_999 / fps) > 10 / fps  # far from where they should be
    for times in (added, added.astype(np.float64), added + np.float32(3)):
        late, start = find_late_frame(times, fps)
        assert late is None and start == pytest.approx(float(times[0]))
    for at, frames in ((40, 1), (40_000, 1), (59_000, 3)):  # a frame that is missing is no rounding
        assert not _ok(np.concatenate([added[:at], added[at + frames :]]), fps)
    assert not _ok(np.arange(60_000) / fps * 1.0001, fps)


def test_rates_of_television_are_rates_that_are_rounded() -> None:
    count = np.arange(100_000)
    assert _ok(count * 1001 / 30_000, 29.97) and _ok(count * 1001 / 24_000, 23.976)
    late, _ = find_late_frame(count * 1001 / 30_000, 30)
    assert late is not None and "29.97 a second, fps in meta/info.json is 30" in late.why


def test_an_episode_may_begin_at_any_time() -> None:
    count = np.arange(500)
    for start in (0.5, 3_600.0, 1.7e9):
        assert find_late_frame(start + count / 30, 30) == (None, pytest.approx(start, rel=1e-6))
    assert _ok((3_600 + count / 30).astype(np.float32), 30)


@pytest.mark.parametrize("kind", ["late", "stands", "back", "nan", "drift"])
def test_times_that_are_wrong_are_found(kind: str) -> None:
    times = np.arange(300) / 30
    if kind == "late":
        times[200] += 0.002
    elif kind == "stands":
        times[200] = times[199]
    elif kind == "back":
        times[200:] -= 3
    elif kind == "nan":
        times[200] = np.nan
    else:
        times *= 1.001
    for dtype in (np.float32, np.float64):
        assert not _ok(times.astype(dtype), 30)
    late, _ = find_late_frame(times, 30)
    assert late is not None and (late.frame == 200 or kind == "drift")
    if kind == "late":
        assert "--tolerance 0.0022" in late.hint and _ok(times, 30, 0.0022)


def test_the_writer_and_the_reader_go_far_beyond_an_hour(tmp_path: Path) -> None:
    spec = parse(read(SMALL, ["actions.control_hz=10"]))
    features = {"action": Feature("float32", (spec.actions.size,)), CAMERA: TINY}
    frame = {"action": np.zeros(spec.actions.size), CAMERA: np.zeros((2, 2, 3), np.uint8)}
    with Writer(tmp_path / "long", 10, features) as writer:
        for _ in range(25_000):
            writer.add_frame(frame)
        writer.add_episode("wipe the table")
    assert check(tmp_path / "long", spec) == []
    assert len(Samples(tmp_path / "long", spec)) == 25_000


def _film(file: Path, numbers: Sequence[float], moments: Sequence[float], **options: str) -> None:
    """An mp4 whose image i has the brightness numbers[i] and is shown at moments[i] seconds."""
    file.unlink(missing_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = TICK
        for number, moment in zip(numbers, moments, strict=True):
            image = np.full((48, 64, 3), number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(moment / TICK), TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


BRIGHT = [(10 + 18 * t + 5 * e) % 250 for e in range(3) for t in range(12)]
EVEN = (np.arange(36) / 10).tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return record(tmp_path / "set", SPEC, episodes=3)


def _start(folder: Path, starts: Sequence[float]) -> None:
    """Change where the metadata say that episodes begin in their film."""
    name, table = f"videos/{CAMERA}/from_timestamp", pq.read_table(folder / EPISODES)
    place = table.column_names.index(name)
    changed = table.set_column(place, name, pa.array(starts, pa.float64()))
    (folder / EPISODES).unlink()
    pq.write_table(changed, folder / EPISODES)


def _right(folder: Path, tolerance: float = 1e-4) -> bool:
    """Whether each sample shows the image that was recorded with its frame."""
    samples = Samples(folder, SPEC, tolerance=tolerance)
    seen = [float(samples[i]["images"]["front"][0].float().mean()) for i in range(len(samples))]
    return bool(torch.allclose(torch.tensor(seen), torch.tensor(BRIGHT).float(), atol=4, rtol=0))


@pytest.mark.parametrize("step", [0.02, 0.05, 0.1, 0.12])
def test_offsets_that_add_up_in_a_joined_film_are_read_by_number(folder: Path, step: float) -> None:
    _start(folder, [1.2 * i + step * i for i in range(3)])
    notes: list[str] = []
    assert check(folder, SPEC, decode=True, note=notes.append) == [] and _right(folder)
    (note,) = notes
    assert f"up to {2 * step:.4f} s off" in note and "episode 2; " in note and "by number" in note


@pytest.mark.parametrize(
    "kind", ["late", "slow", "variable", "b-frames", "float32", "fast", "late b-frames"]
)
def test_a_film_with_an_image_for_every_frame_is_read_by_number(folder: Path, kind: str) -> None:
    moments, options = np.arange(36) / 10, {}
    if "late" in kind:
        moments = moments + 0.2
    if kind == "slow":
        moments = moments * 1.001
    if kind == "fast":
        moments = moments * 0.995
    if kind == "variable":
        moments = moments + np.random.default_rng(0).uniform(-0.03, 0.03, 36) + 0.04
    if "b-frames" in kind:
        options = {"bf": "3", "g": "12"}
    if kind == "float32":
        _start(folder, np.float32([0.0, 1.2, 2.4]).tolist())
    _film(folder / FILM, BRIGHT, moments.tolist(), **options)
    assert check(folder, SPEC, decode=True) == [] and _right(folder)


def test_an_offset_that_nothing_explains_is_reported_with_an_option_that_allows_it(
    folder: Path, wamkit: Run, tmp_path: Path
) -> None:
    _film(folder / FILM, [*BRIGHT, 0, 0], (np.arange(38) / 10 + 0.02).tolist())
    (first, *others) = check(folder, SPEC)
    assert len(others) == 2 and first.episode == 0
    assert f"the nearest ones of {CAMERA} are 0.0200 s off" in first.why
    assert "--tolerance 0.021" in first.hint
    with pytest.raises(WamkitError, match=r"the nearest is 0\.0200 s off.*\n.*--tolerance 0\.021"):
        Samples(folder, SPEC)[0]
    assert check(folder, SPEC, tolerance=0.021) == [] and _right(folder, 0.021)
    args = ["--set", "cameras.views.0.size=[16, 32]"]
    allow = ["--tolerance", 0.021]
    assert wamkit("data", "check", folder, "--spec", SMALL, *args)[0] == 1
    assert wamkit("data", "check", folder, "--spec", SMALL, *args, *allow)[0] == 0
    assert wamkit("data", "stats", folder, "--spec", SMALL, *args, *allow)[0] == 0
    latents = ["precompute", "latents", SMALL, "--data", folder, *args, "--stride", 6]
    assert wamkit(*latents, "--out", tmp_path / "a")[0] == 2
    assert wamkit(*latents, "--out", tmp_path / "b", *allow)[0] == 0
    learn = ["train", SMALL, "--data", folder, "--steps", 1, "--batch", 2, *args]
    code, _, err = wamkit(*learn, "--out", tmp_path / "run")
    assert code == 2 and "--tolerance 0.021" in err
    assert wamkit(*learn, "--out", tmp_path / "run2", *allow)[0] == 0


def test_a_missing_last_image_is_reported_and_can_be_repeated(folder: Path) -> None:
    _film(folder / FILM, BRIGHT[:-1], EVEN[:-1])
    (finding,) = check(folder, SPEC)
    assert (finding.episode, finding.frame) == (2, 11)
    assert "no image for 1 of 12 frames" in finding.why and "--tolerance 0.11" in finding.hint
    samples = Samples(folder, SPEC, tolerance=0.11)
    seen = samples[35]["images"]["front"][0].float().mean()
    assert float(seen) == pytest.approx(BRIGHT[34], abs=4)


def test_one_image_too_few_and_one_too_many_do_not_shift_an_episode(folder: Path) -> None:
    numbers = [*BRIGHT[:11], *BRIGHT[12:24], *BRIGHT[24:], 0]
    moments = [*EVEN[:11], *EVEN[12:24], *EVEN[24:], 3.6]
    _film(folder / FILM, numbers, moments)
    (finding,) = check(folder, SPEC)
    assert (finding.episode, finding.frame) == (0, 11)
    seen = Samples(folder, SPEC)[20]["images"]["front"][0].float().mean()
    assert float(seen) == pytest.approx(BRIGHT[20], abs=4)


def test_times_that_begin_elsewhere_need_an_image_for_every_frame(folder: Path) -> None:
    table = pq.read_table(folder / DATA)
    place = table.column_names.index("timestamp")
    moved = pa.array(np.array(table["timestamp"], dtype=np.float64) + 5.0)
    (folder / DATA).unlink()
    pq.write_table(table.set_column(place, "timestamp", moved), folder / DATA)
    assert check(folder, SPEC) == [] and _right(folder)
    _film(folder / FILM, [*BRIGHT, 0], [*EVEN, 3.6])
    with pytest.raises(WamkitError, match="do not begin at 0, and the video has not an image"):
        Samples(folder, SPEC)


def test_a_rate_that_is_a_fraction_is_written_and_read(tmp_path: Path) -> None:
    spec = parse(read(SMALL, ["cameras.views.0.size=[16, 32]", "actions.control_hz=29.97"]))
    folder = record(tmp_path / "set", spec, episodes=3)
    assert json.loads((folder / "meta/info.json").read_text())["fps"] == 29.97
    assert check(folder, spec, decode=True) == []
    assert LeRobotFolder(folder).fps == 29.97 and len(Samples(folder, spec)) == 36


def test_nothing_is_looked_up_in_a_film_that_agrees_with_its_metadata(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wamkit.data.alignment import Alignment

    def never(*_: Any) -> None:
        raise AssertionError("the index was read")

    monkeypatch.setattr(Alignment, "_table", never)
    assert _right(folder)

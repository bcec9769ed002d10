"""A film is whole or not there, also where its encoder hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wamkit.data import Feature, LeRobotFolder, Writer
from wamkit.data.video import Video
from wamkit.data.video_writer import CODECS, HANGING, VideoWriter
from wamkit.errors import WamkitError
from wamkit.simulate import video

CAMERA = "observation.images.front"
FEATURES = {CAMERA: Feature("video", (48, 64, 3)), "action": Feature("float32", (1,))}
IMAGE = np.full((48, 64, 3), 90, np.uint8)


class Stuck:
    """In place of an encoder: it takes images, and never comes back from one call."""

    def __init__(self, stream: Any, at: str, freed: threading.Event) -> None:
        self.stream, self.at, self.freed = stream, at, freed

    def encode(self, *frame: Any) -> list[Any]:
        if ("image" if frame else "end") == self.at:
            self.freed.wait()
        return list(self.stream.encode(*frame))


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make every new film hang at a "image" or at its "end"."""
    freed, begin = threading.Event(), VideoWriter.__init__

    def make(at: str) -> None:
        def stuck(film: VideoWriter, *args: Any, **named: Any) -> None:
            begin(film, *args, **named)
            film._stream = Stuck(film._stream, at, freed)

        monkeypatch.setattr(VideoWriter, "patience", 0.2)
        monkeypatch.setattr(VideoWriter, "__init__", stuck)

    yield make
    freed.set()
    while HANGING:
        HANGING.pop()._call.join()


def write(folder: Path, **options: Any) -> None:
    with Writer(folder, 10, FEATURES, **options) as writer:
        writer.add_episode("go", ({CAMERA: IMAGE, "action": [t]} for t in range(4)))


def files(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_a_film_appears_when_it_is_closed(tmp_path: Path, codec: str) -> None:
    film = VideoWriter(tmp_path / "a" / "film.mp4", 10, (48, 64), codec)
    for _ in range(5):
        film.add(IMAGE)
    assert not film.file.exists() and film.seconds == 0.5
    film.close()
    film.close()
    film.discard()
    assert files(tmp_path) == ["a/film.mp4"]
    assert len(Video(film.file).times()) == 5 and film.bytes > 0


def test_a_film_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    film = VideoWriter(tmp_path / "film.mp4", 10, (48, 64), "av1")
    film.add(IMAGE)
    film.discard()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("codec", "name", "other"), [("av1", "libsvtav1", "h264"), ("h264", "libx264", "av1")]
)
@pytest.mark.parametrize(("at", "doing"), [("image", "took in an image of"), ("end", "finished")])
def test_an_encoder_that_hangs_is_given_up(
    tmp_path: Path, hang: Any, codec: str, name: str, other: str, at: str, doing: str
) -> None:
    hang(at)
    film = VideoWriter(tmp_path / "film.mp4", 10, (48, 64), codec)
    with pytest.raises(WamkitError) as error:
        film.add(IMAGE)
        film.close()
    assert f"the encoder {name} hangs: it has not come back for 0.2 s" in error.value.what
    assert f"while it {doing} film.mp4. {film.file} is not written" in error.value.what
    assert f"--codec {other}" in str(error.value) and f"codec='{other}'" in str(error.value)
    film.discard()
    assert not files(tmp_path) and list(map(id, HANGING)) == [id(film)]


def test_a_data_set_is_as_it_was_before_an_encoder_hung(tmp_path: Path, hang: Any) -> None:
    folder = tmp_path / "set"
    write(folder)
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    hang("end")
    with pytest.raises(WamkitError, match="the encoder libsvtav1 hangs"):
        write(folder)
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    assert list(tmp_path.iterdir()) == [folder]
    assert [episode.length for episode in LeRobotFolder(folder).episodes] == [4]


def test_several_videos_that_hang_are_reported_at_once(tmp_path: Path, hang: Any) -> None:
    hang("end")
    both = FEATURES | {"observation.images.side": FEATURES[CAMERA]}
    with (
        pytest.raises(WamkitError, match="the encoder libx264 hangs"),
        Writer(tmp_path / "set", 10, both, codec="h264") as writer,
    ):
        frame = {CAMERA: IMAGE, "observation.images.side": IMAGE, "action": [0]}
        writer.add_episode("go", [frame])
    assert list(tmp_path.iterdir()) == []


def test_a_film_of_an_episode_that_fails_leaves_nothing(
    tmp_path: Path, hang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang("image")
    monkeypatch.setattr(video, "video_frames", lambda *_: [IMAGE])
    with pytest.raises(WamkitError, match="the encoder libx264 hangs"):
        video.write_video(None, tmp_path / "film.mp4", 10, 1)  # type: ignore[arg-type]
    assert files(tmp_path) == []


def test_an_error_of_the_encoder_is_the_caller_s(tmp_path: Path) -> None:
    film = VideoWriter(tmp_path / "film.mp4", 10, (48, 64), "h264")
    with pytest.raises(ValueError, match="shape"):
        film.add(np.zeros((48, 64, 5), np.uint8))
    film.discard()
    assert files(tmp_path) == []


def test_an_encoder_that_is_not_there_is_named_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CODECS, "av1", ("libnone", {}))
    with pytest.raises(WamkitError, match="no encoder libnone, for av1") as error:
        write(tmp_path / "set", codec="av1")
    assert "--codec h264" in str(error.value.hint) and files(tmp_path) == []


@pytest.mark.parametrize("fps", [0, -1, 1e-9, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(WamkitError, match="images a second"):
        VideoWriter(tmp_path / "film.mp4", fps, (48, 64), "h264")
    with pytest.raises(WamkitError, match="frames a second"):
        Writer(tmp_path / "set", fps, FEATURES)
    assert files(tmp_path) == []


def test_the_film_of_an_episode_states_what_its_command_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CODECS, "h264", ("libnone", {}))
    monkeypatch.setattr(video, "video_frames", lambda *_: [IMAGE])
    with pytest.raises(WamkitError) as error:
        video.write_video(None, tmp_path / "film.mp4", 10, 1)  # type: ignore[arg-type]
    assert "--video-format gif" in str(error.value.hint)

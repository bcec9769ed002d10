"""Untrusted videos: three kinds of files, a limit on the size, and no further file opened."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from wamkit import WamkitError
from wamkit.data.mp4 import expect_index
from wamkit.data.video import Video


def film(file: Path, size: tuple[int, int] = (48, 64), *, sound: bool = False) -> Path:
    """A film of three gray images of (height, width)."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=8000) if sound else None
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            tone.sample_rate = 8000
            container.mux(voice.encode(tone))
            container.mux(voice.encode())
    return file


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "mov"])
@pytest.mark.parametrize("sound", [False, True])
def test_films_are_read(tmp_path: Path, ending: str, sound: bool) -> None:
    video = Video(film(tmp_path / f"a.{ending}", sound=sound))
    assert video.size == (48, 64)
    assert video.at(video.times()[-1:].tolist(), 0.05)[0].shape == (48, 64, 3)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    ],
    ids=["concat", "playlist", "session"],
)
def test_a_list_of_other_files_is_no_film(tmp_path: Path, text: str) -> None:
    film(tmp_path / "secret.mp4")
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(WamkitError, match="is no video or incomplete") as error:
        Video(tmp_path / "a.mp4")
    assert "mp4, mkv and avi" in error.value.hint


def test_a_film_larger_than_the_limit_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = film(tmp_path / "a.mp4")
    monkeypatch.setenv("WAMKIT_MAX_PIXELS", "3000")
    with pytest.raises(WamkitError, match="48x64, 3,072 pixels; expected at most 3,000") as error:
        Video(file)
    assert "WAMKIT_MAX_PIXELS" in error.value.hint


def test_images_larger_than_the_header_states_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = film(tmp_path / "a.mkv", (32, 32)), film(tmp_path / "b.mkv", (96, 96))
    with av.open(str(large)) as container:
        first = next(packet for packet in container.demux(video=0) if packet.size)
        sets = container.streams.video[0].codec_context.extradata
    assert sets is not None
    length = struct.unpack(">H", sets[6:8])[0]
    units = (sets[8 : 8 + length], sets[11 + length :])
    data = b"".join(struct.pack(">I", len(unit)) + unit for unit in units) + bytes(first)

    def decoded() -> list[av.VideoFrame]:
        decoder = Video(small)._stream.codec_context
        return [*decoder.decode(av.Packet(data)), *decoder.decode(None)]

    assert [(frame.height, frame.width) for frame in decoded()] == [(96, 96)]
    monkeypatch.setenv("WAMKIT_MAX_PIXELS", "2000")
    with pytest.raises(av.FFmpegError):
        decoded()


@pytest.mark.parametrize("place", range(20, 400, 7))
def test_bytes_that_are_changed_end_with_a_message_or_in_images(tmp_path: Path, place: int) -> None:
    raw = bytearray(film(tmp_path / "a.mp4").read_bytes())
    at = raw.index(b"moov") + place
    raw[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "b.mp4").write_bytes(raw)
    try:
        video = Video(tmp_path / "b.mp4")
        assert video.at([0.0], 0.05)[0].ndim == 3
    except WamkitError as problem:
        assert problem.hint


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def indexed(**counts: int) -> bytes:
    """An mp4 file whose index counts so many samples in its boxes."""
    whole = b"".join(
        box(name.encode(), struct.pack(form, 0, *fields))
        for name, count in counts.items()
        for form, fields in [
            {
                "stsz": (">III", (1, count)),
                "stz2": (">III", (8, count)),
                "trun": (">IIi", (count, 0)),
                "stts": (">IIII", (1, count, 1)),
                "ctts": (">IIII", (1, count, 1)),
            }[name]
        ]
    )
    return box(b"ftyp", b"isom") + box(b"moov", box(b"trak", whole)) + box(b"mdat", b"x" * 100)


@pytest.mark.parametrize("name", ["stsz", "stz2", "trun", "stts", "ctts"])
@pytest.mark.parametrize("count", [1000, 10**9, 2**32 - 1])
def test_an_index_of_more_images_than_bytes_is_refused_before_it_is_made(
    tmp_path: Path, name: str, count: int
) -> None:
    file = tmp_path / "a.mp4"
    for data in (indexed(**{name: count}), b"\0\0\0\1mdat" + b"\0" * 7 + b"\x10"):
        file.write_bytes(data if data[4:8] == b"ftyp" else data + indexed(**{name: count}))
        with pytest.raises(WamkitError, match=f"speaks of {count:,} images or samples"):
            Video(file)


def test_samples_of_all_tracks_are_counted_together(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"".join(indexed(stsz=100) for _ in range(10)))
    expect_index(file)
    file.write_bytes(b"".join(indexed(stsz=100, stz2=0, stts=0) for _ in range(3)))
    expect_index(file)
    file.write_bytes(box(b"moov", 40 * box(b"stsz", struct.pack(">III", 0, 1, 100))))
    with pytest.raises(WamkitError, match="speaks of 4,000 images"):
        expect_index(file)


def test_damaged_boxes_end_the_look(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    whole = film(tmp_path / "whole.mp4").read_bytes()
    for cut in range(0, len(whole), 37):
        file.write_bytes(whole[:cut])
        expect_index(file)
    file.write_bytes(box(b"moov", box(b"cmov", b"x" * 20)))
    with pytest.raises(WamkitError, match="compressed index"):
        expect_index(file)

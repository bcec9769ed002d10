"""Image files: six formats and no more, a size that is looked at first, damage with a message."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wamkit import Observation, WamkitError
from wamkit.data.reader import decode_cell
from wamkit.files import images
from wamkit.files.pixels import read_pixels

COLORS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
PLAIN = Image.fromarray(COLORS)
ENDS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}
EPISODE: Any = SimpleNamespace(data=Path("data.parquet"), index=0)
Run = Callable[..., tuple[int, str, str]]


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A black PNG of 8 bits gray, small as a file, with more pieces behind its header."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    body = b"".join(packer.compress(row) for _ in range(min(height, 4))) + packer.flush()
    parts = head + b"".join(more) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(width: int, height: int, *tags: tuple[int, int], body: bytes = b"") -> bytes:
    """A little-endian TIFF of 8 bits gray with tags of one value, and `body` behind them."""
    known = {256: width, 257: height, 258: 8, 262: 1, 277: 1} | dict(tags)
    start = 8 + 2 + 12 * len(known) + 4
    known = {tag: start if value == -1 else value for tag, value in known.items()}
    rows = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(known.items())]
    return b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + bytes(4) + body


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def gif(width: int, height: int) -> bytes:
    return file_of(PLAIN, "GIF").replace(
        struct.pack("<HH", 36, 24), struct.pack("<HH", width, height), 1
    )


def jpeg(width: int, height: int) -> bytes:
    return file_of(PLAIN, "JPEG").replace(
        struct.pack(">HH", 24, 36), struct.pack(">HH", height, width)
    )


def webp(width: int, height: int) -> bytes:
    raw = bytearray(file_of(PLAIN, "WEBP", save_all=True, append_images=[PLAIN.rotate(180)]))
    raw[24:27], raw[27:30] = (n.to_bytes(3, "little") for n in (width - 1, height - 1))
    return bytes(raw)


HUGE = {
    "png": png(60_000, 60_000),
    "png.large": png(12_000, 12_000),
    "tif": tiff(60_000, 60_000, (259, 1), (273, 8), (278, 60_000), (279, 4)),
    "tif.tiles": tiff(16, 16, (259, 8), (322, 60_000), (323, 60_000), (324, 8), (325, 4)),
    "bmp": bmp(60_000, 60_000),
    "gif": gif(60_000, 60_000),
    "jpg": jpeg(60_000, 60_000),
    "webp": webp(16_383, 16_383),
}


@pytest.mark.parametrize("kind", ENDS)
def test_six_formats_are_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"a.{ENDS[kind]}"
    file.write_bytes(file_of(PLAIN, kind))
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert np.array_equal(read_pixels(file), expected)
    cell = {"bytes": file.read_bytes(), "path": None}
    assert np.array_equal(decode_cell(cell, tmp_path, EPISODE, 0), expected)


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
def test_tiff_is_read_in_every_lossless_compression(tmp_path: Path, kind: str) -> None:
    PLAIN.save(tmp_path / "a.tif", compression=kind)
    assert np.array_equal(read_pixels(tmp_path / "a.tif"), COLORS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_bilevel_palette_and_alpha_are_read_as_color(tmp_path: Path, mode: str) -> None:
    PLAIN.convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(
        read_pixels(tmp_path / "a.png"), np.asarray(PLAIN.convert(mode).convert("RGB"))
    )


def test_of_an_animation_the_first_image_is_read(tmp_path: Path) -> None:
    many = [PLAIN.rotate(angle) for angle in (90, 180)] * 40
    for kind in ("PNG", "TIFF"):
        file = tmp_path / f"a.{ENDS[kind]}"
        PLAIN.save(file, save_all=True, append_images=many)
        assert np.array_equal(read_pixels(file), COLORS)


OTHERS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n",
    "ppm": b"P6 8 8 255\n" + bytes(192),
    "pcx": file_of(PLAIN, "PCX"),
    "ico": file_of(PLAIN, "ICO"),
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "psd": b"8BPS\0\1" + bytes(40),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("ending", OTHERS)
def test_other_formats_are_refused_and_start_no_program(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for name in (f"a.{ending}", "a.png"):  # the name says nothing
        (tmp_path / name).write_bytes(OTHERS[ending])
        with pytest.raises(WamkitError, match=r"is not an image.* expected PNG, JPEG"):
            Observation({"front": tmp_path / name}, "go")
        cells = {"bytes": OTHERS[ending], "path": None}, {"bytes": None, "path": name}
        for cell in cells:
            with pytest.raises(WamkitError, match="episode 0 at frame 3: it is not an image"):
                decode_cell(cell, tmp_path, EPISODE, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_image_is_refused_before_it_is_decoded(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"a.{kind.partition('.')[0]}"
    file.write_bytes(HUGE[kind])
    assert file.stat().st_size < 10_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(WamkitError, match="pixels") as error:
        read_pixels(file)
    assert error.value.hint


def test_the_limit_is_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PLAIN.save(tmp_path / "a.png")
    monkeypatch.setenv("WAMKIT_MAX_PIXELS", "863")
    for image in (tmp_path / "a.png", PLAIN):
        with pytest.raises(WamkitError, match="24x36, 864 pixels; expected at most 863") as error:
            Observation({"front": image}, "go")
        assert "WAMKIT_MAX_PIXELS" in error.value.hint
    monkeypatch.setenv("WAMKIT_MAX_PIXELS", "864")
    assert read_pixels(tmp_path / "a.png").shape == (24, 36, 3)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e9", "9" * 5000, "\u0663"])
def test_a_limit_that_is_no_count_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WAMKIT_MAX_PIXELS", value)
    with pytest.raises(WamkitError, match="expected a count of pixels from 1 to"):
        images.max_pixels()


def test_a_bomb_within_a_text_or_a_profile_takes_no_memory(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(2**28), 9)
    parts = [
        chunk(b"zTXt", b"a\0\0" + bomb),
        chunk(b"iTXt", b"a\0\1\0\0\0" + bomb),
        chunk(b"iCCP", b"a\0\0" + bomb),
    ]
    for part in parts:
        (tmp_path / "a.png").write_bytes(png(4, 4, part))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with suppress(WamkitError):  # what is not needed may be left out, or the file refused
            read_pixels(tmp_path / "a.png")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 2**17, "kilobytes"


def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path) -> None:
    raw = file_of(PLAIN, "JPEG", progressive=True)
    last = raw.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(raw[:last] + raw[last:-2] * 200 + raw[-2:])
    with pytest.raises(WamkitError, match="scans; expected at most"):
        read_pixels(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(raw)
    assert read_pixels(tmp_path / "b.jpg").shape == (24, 36, 3)


@pytest.mark.parametrize("kind", ENDS)
def test_files_that_break_off_end_with_a_message(tmp_path: Path, kind: str) -> None:
    whole = file_of(PLAIN, kind)
    for length in {0, 1, 7, 12, 30, 60, 200, len(whole) // 2, len(whole) - 200}:
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(WamkitError, match=r"a damaged image|is not an image|is empty"):
            read_pixels(tmp_path / "a")


def test_images_without_pixels_are_refused(tmp_path: Path) -> None:
    for size in ((0, 4), (4, 0), (0, 0)):
        for raw in (png(*size), bmp(*size), tiff(*size, (259, 1), (273, 8), (279, 4))):
            (tmp_path / "a").write_bytes(raw)
            with pytest.raises(WamkitError):
                read_pixels(tmp_path / "a")


@pytest.mark.parametrize(
    "error",
    [
        OSError("x"),
        SyntaxError("x"),
        struct.error("x"),
        Image.DecompressionBombError("x"),
        ValueError("x"),
        zlib.error("x"),
        EOFError(),
        OverflowError("x"),
        MemoryError(),
        KeyError("x"),
        ZeroDivisionError("x"),
        RecursionError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_of_a_decoder_becomes_a_message(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: Any) -> None:
        raise error

    PLAIN.save(tmp_path / "a.png")
    lazy = Image.open(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for image in (tmp_path / "a.png", lazy):
        with pytest.raises(WamkitError) as found:
            Observation({"front": image}, "go")
        assert found.value.hint and ("a.png" in found.value.what or "'front'" in found.value.what)


def test_bytes_that_are_changed_end_with_a_message_or_in_an_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ENDS:
        whole = file_of(PLAIN, kind)
        for _ in range(60):
            raw = bytearray(whole)
            for place in rng.integers(0, min(len(raw), int(rng.choice((60, 300, 10**6)))), 4):
                raw[place] = rng.integers(0, 256)
            (tmp_path / "a").write_bytes(raw)
            try:
                assert read_pixels(tmp_path / "a").ndim == 3
            except WamkitError as problem:
                assert problem.hint


def test_act_refuses_a_program_and_a_bomb_with_a_message(wamkit: Run, tmp_path: Path) -> None:
    small = Path(__file__).parent / "data" / "small.toml"
    for name, raw in (("a.eps", OTHERS["eps"]), ("b.png", HUGE["png.large"])):
        (tmp_path / name).write_bytes(raw)
        args = ("act", small, "--image", f"front={tmp_path / name}", "--prompt", "go")
        code, _, err = wamkit(*args)
        assert code == 2 and name in err and "hint:" in err and "a bug" not in err


def test_only_one_module_opens_image_files() -> None:
    root = Path(__file__).parent.parent
    for file in [*(root / "wamkit").rglob("*.py"), *(root / "plugins").rglob("*.py")]:
        if "tests" not in file.parts and file.name != "images.py":
            assert "Image.open" not in file.read_text(), f"{file} opens images by itself"

"""Images: of other formats, damaged, huge, with metadata that are wrong, and odd ones."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .material import PROMPT, put
from .mutate import cut, flipped

READ = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}
"""Formats that wamkit reads, and an ending of each."""
OTHER = {"PPM": "ppm", "TGA": "tga", "ICO": "ico", "PCX": "pcx", "SGI": "sgi", "DDS": "dds"}
OTHER |= {
    "JPEG2000": "jp2",
    "ICNS": "icns",
    "IM": "im",
    "MSP": "msp",
    "SPIDER": "spi",
    "PDF": "pdf",
}
OTHER |= {"EPS": "eps", "XBM": "xbm", "BLP": "blp", "QOI": "qoi", "AVIF": "avif", "MPO": "mpo"}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")


def cases(material: Path) -> Iterator[Case]:
    """Every format cut and flipped; formats that are not read; sizes, links, and valid ones."""
    from PIL import Image

    image = Image.open(material / "image.png")
    for kind, ending in READ.items():
        data = written(image, kind)
        for name, damaged in cut(data, 7):
            expected: Expected = "same" if kind in LAST or name == "first 6 of 7" else "refused"
            yield case(material, f"{kind} {name}", damaged, ending, expected)
        places = [*range(0, min(64, len(data)), 4), *range(64, len(data), max(1, len(data) // 6))]
        for name, damaged in flipped(data, places):
            yield case(material, f"{kind} {name}", damaged, ending, "either")
    for kind, ending in OTHER.items():
        data = _try(image, kind)
        yield case(material, f"no format that is read: {kind}", data, ending, _others(kind))
        yield case(material, f"under the name of a PNG: {kind}", data, "png", _others(kind))
    for name, data in _programs().items():
        for ending in ("eps", "png", "jpg"):
            yield case(material, f"{name} as {ending}", data, ending)
    for name, data in _huge().items():
        yield case(material, f"huge: {name}", data, "png")
    for name, data in _pngs().items():
        yield case(
            material, f"png: {name}", data, "png", "either" if "chunk" in name else "refused"
        )
    for name, make in _special().items():
        yield _made(material, f"special: {name}", make)
    for args in ("front=", "=image.png", "front=front=image.png", "side=image.png", "front"):
        yield _args(material, f"words: {args}", ("--image", args))
    yield _args(material, "words: two", ("--image", "image.png", "--image", "image.png"))
    yield _args(material, "words: NUL", ("--image", "image\x00.png"))
    yield _args(material, "words: long", ("--image", "x" * 5000))
    yield _args(material, "words: half a character", ("--image", "\udc80.png"))
    yield _args(material, "words: control", ("--image", "\x1b[31m.png"))
    yield from _valid(material, image)


LAST = ("GIF", "BMP")
"""Formats whose last bytes may be missing where they say nothing."""


def _others(kind: str) -> Expected:
    return "either" if kind in ("MPO",) else "refused"  # an MPO begins with a JPEG


def written(image: Any, kind: str, **options: Any) -> bytes:
    """An image in a format."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _try(image: Any, kind: str) -> bytes:
    """An image in a format; where Pillow cannot write it, what such a file begins with."""
    begin = {"QOI": b"qoif" + struct.pack(">IIBB", 32, 24, 3, 0), "BLP": b"BLP2\1\0\0\0"}
    try:
        mode = {"XBM": "1", "MSP": "1", "SPIDER": "F", "BLP": "P"}.get(kind)
        return written(image.convert(mode) if mode else image, kind)
    except (OSError, KeyError, ValueError):
        return begin.get(kind, kind.encode()) + bytes(1000)


def _programs() -> dict[str, bytes]:
    """Files that some readers give to another program, or run."""
    touch = b"(../outside/ran) (w) file closefile\n"
    eps = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\n"
        + touch
        + b"showpage\n"
    )
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    xml = b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>"
    mvg = b"push graphic-context\nviewbox 0 0 32 24\nfill 'url(https://x/a.png\"|touch ran\")'\n"
    pdf = b"%PDF-1.4\n1 0 obj <</Type /Catalog /OpenAction <</S /Launch>>>> endobj\n%%EOF\n"
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 24, 32, 8, 3) + bytes(12) + bytes(2400)
    dos = b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 32, len(eps), 0, 0, 0, 0) + bytes(4) + eps
    wmf = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 32, 24, 96) + bytes(100)
    return {"EPS": eps, "DOS EPS": dos, "SVG": svg, "XML": xml, "MVG": mvg, "PDF": pdf} | {
        "PSD": psd,
        "WMF": wmf,
        "a pickle": b"cos\nsystem\n(S'touch ../outside/ran'\ntR.",
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "text": b"an image of a cup\n",
        "zeros": bytes(5000),
        "FITS": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
        "MPEG": b"\0\0\1\xb3\x02\x00\x18\x13" + bytes(100),
    }


def png(
    width: int, height: int, rows: bytes, depth: int = 8, color: int = 2, **more: bytes
) -> bytes:
    """A PNG of these sizes around compressed rows; `more` chunks stand before them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    between = b"".join(chunk(name.encode(), data) for name, data in more.items())
    tail = chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + between + tail


def _huge() -> dict[str, bytes]:
    """A few bytes that say they are thousands of megapixels."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    found = {
        f"{width} x {height}": png(width, height, zlib.compress(bytes(1000)))
        for width, height in (
            (20000, 20000),
            (100000, 100000),
            (2**31 - 1, 2**31 - 1),
            (2**31 - 1, 1),
            (1, 2**31 - 1),
            (12000, 12000),
        )
    }
    found["12,000 x 12,000, whole"] = png(
        12_000, 12_000, zlib.compress(bytes(12_000 * 1501), 9), 1, 0
    )
    for kind in READ:
        head = bytearray(written(Image.new("RGB", (64, 64)), kind))
        places = {"BMP": (18, 22), "GIF": (6, 8)}.get(kind)
        if places:
            for place in places:
                size = struct.pack("<i", 2**30) if kind == "BMP" else b"\xff\xff"
                head[place : place + len(size)] = size
            found[f"a {kind} of other sizes"] = bytes(head)
    return found


def _pngs() -> dict[str, bytes]:
    """PNGs that are wrong in one thing, or carry odd chunks."""
    rows = zlib.compress(b"".join(b"\0" + bytes(32 * 3) for _ in range(24)))
    deep = zlib.compress(b"".join(b"\0" + bytes(32 * 6) for _ in range(24)))
    return {
        "no width": png(0, 24, rows),
        "no height": png(32, 0, rows),
        "16 bits a channel": png(32, 24, deep, 16),
        "depth 3": png(32, 24, rows, 3),
        "color 5": png(32, 24, rows, 8, 5),
        "fewer rows": png(32, 2400, rows),
        "no rows": png(32, 24, b""),
        "rows that are not compressed": png(32, 24, bytes(2000)),
        "palette without colors": png(32, 24, rows, 8, 3),
        "filter 9": png(32, 24, zlib.compress(b"".join(b"\x09" + bytes(96) for _ in range(24)))),
        "a bomb in a text chunk": png(32, 24, rows, zTXt=b"a\0\0" + zlib.compress(bytes(10**8))),
        "a bomb in a profile chunk": png(32, 24, rows, iCCP=b"a\0\0" + zlib.compress(bytes(10**8))),
        "a bomb in an iTXt chunk": png(
            32, 24, rows, iTXt=b"a\0\1\0\0\0" + zlib.compress(bytes(10**8))
        ),
        "an EXIF chunk of no EXIF": png(32, 24, rows, eXIf=b"MM\0*" + bytes(3)),
        "an EXIF chunk that leads to itself": png(
            32, 24, rows, eXIf=b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08"
        ),
        "an EXIF chunk of orientation 99": png(
            32, 24, rows, eXIf=b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0"
        ),
        "an EXIF chunk of orientation 'abc'": png(
            32, 24, rows, eXIf=b"MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\4abc\0\0\0\0\0"
        ),
        "an EXIF chunk of two orientations": png(
            32, 24, rows, eXIf=b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\2\0\1\0\2\0\0\0\0"
        ),
        "an animation chunk": png(32, 24, rows, acTL=struct.pack(">II", 2**31 - 1, 0)),
    }


def _special() -> dict[str, Callable[[Path], Any]]:
    def sparse(file: Path) -> None:
        with file.open("wb") as stream:
            stream.write(b"\x89PNG\r\n\x1a\n")
            stream.truncate(2**36)

    return {
        "a folder": lambda file: file.mkdir(),
        "a pipe": lambda file: os.mkfifo(file),
        "a link to itself": lambda file: file.symlink_to(file.name),
        "a link to nothing": lambda file: file.symlink_to("nothing"),
        "a link to zeros": lambda file: file.symlink_to("/dev/zero"),
        "nothing": lambda file: None,
        "empty": lambda file: file.write_bytes(b""),
        "a sparse file of 64 GiB": sparse,
    }


def _valid(material: Path, image: Any) -> Iterator[Case]:
    """The same pixels in other files."""
    same = {
        "png": written(image, "PNG"),
        "png, not compressed": written(image, "PNG", compress_level=0),
        "png, all compressed": written(image, "PNG", compress_level=9, optimize=True),
        "bmp": written(image, "BMP"),
        "tiff": written(image, "TIFF"),
        "tiff, compressed": written(image, "TIFF", compression="tiff_lzw"),
        "tiff, deflated": written(image, "TIFF", compression="tiff_adobe_deflate"),
        "webp, lossless": written(image, "WEBP", lossless=True),
        "rgba": written(image.convert("RGBA"), "PNG"),
        "with text": written(image, "PNG", pnginfo=_text()),
        "with a resolution": written(image, "PNG", dpi=(300, 300)),
        "with bytes behind it": written(image, "PNG") + b"more" * 100,
    }
    for name, data in same.items():
        for ending in ("png", "jpg", "dat"):
            yield case(material, f"valid: {name} as {ending}", data, ending, "accepted")
    for mode in MODES:
        made = _in_mode(image, mode)
        if made is not None:
            kind = "TIFF" if mode in ("CMYK", "YCbCr", "LAB", "F") else "PNG"
            yield case(material, f"mode {mode}", _try(made, kind), "tif", "either")
    for size in ((1, 1), (1, 500), (500, 1), (2, 2), (3000, 2000)):
        data = written(image.resize(size), "PNG")
        yield case(material, f"size {size[0]} x {size[1]}", data, "png", "either")
    frames = [image, image.rotate(90)]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        data = written(image, kind, save_all=True, append_images=frames)
        yield case(material, f"several frames in {kind}", data, READ[kind], "either")


def _in_mode(image: Any, mode: str) -> Any:
    try:
        return image.convert("L").convert(mode) if mode[0] in "IF" else image.convert(mode)
    except ValueError:
        return None


def _text() -> Any:
    from PIL.PngImagePlugin import PngInfo

    made = PngInfo()
    made.add_text("comment", "a cup \x1b[31m")
    return made


def valid(material: Path) -> Case:
    """The image that all are made from."""
    return case(material, "valid", (material / "image.png").read_bytes(), "png", "accepted")


def case(
    material: Path, name: str, data: bytes, ending: str, expected: Expected = "refused"
) -> Case:
    """Act on an image with these bytes."""

    def make(here: Path) -> None:
        put(material, here, ["spec.toml"])
        (here / f"seen.{ending}").write_bytes(data)

    return Case(name, make, _act("--image", f"seen.{ending}"), expected)


def _act(*args: str) -> tuple[str, ...]:
    return ("act", "spec.toml", "--prompt", PROMPT, "--json", *args)


def _made(material: Path, name: str, write: Callable[[Path], Any]) -> Case:
    def make(here: Path) -> None:
        put(material, here, ["spec.toml"])
        write(here / "seen.png")

    return Case(name, make, _act("--image", "seen.png"))


def _args(material: Path, name: str, args: tuple[str, ...]) -> Case:
    return Case(name, lambda here: put(material, here, ["spec.toml", "image.png"]), _act(*args))

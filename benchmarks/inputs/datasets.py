"""Data sets: info.json by every value, tables, films, templates, tasks; and odd ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .changes import Change, remade, written
from .material import put
from .mutate import changed, documents, text

INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
FILM = "videos/observation.images.front/chunk-000/file-000.mp4"
CAMERA = "observation.images.front"
"""What is done to the folder of a data set."""
UNREAD = ("robot_type", "chunks_size", "data_files_size_in_mb", "video_files_size_in_mb", "splits")
UNREAD += ("total_tasks", "total_videos", "total_chunks", "names", "info")
"""Keys of info.json that nothing depends on."""


def cases(material: Path) -> Iterator[Case]:
    """info.json, then every other file, then right data sets."""
    for kind in ("set", "films"):
        info = json.loads((material / kind / INFO).read_text())
        for name, path, odd, made in documents(info):
            loose = any(key in UNREAD for key in path) or odd in ("twice", "without", "true")
            if path == ("video_path",) and kind == "set":
                loose = True
            fatal = odd in ("deep", "surrogate", "nan", "inf")
            expected: Expected = "same" if loose and not fatal else "refused"
            if path[-1] == "dtype" and path[1] in OWN and not fatal:
                expected = "same"
            if path[-1] in ("total_episodes", "total_frames") or (odd, path[-1]) in EQUAL:
                expected = "same"
            if (path[0] == "features" and len(path) == 2) or path[-1] == "shape":
                expected = "same" if not fatal else "refused"
            yield case(material, f"{kind}: info.json {name}", written(INFO, made), expected, kind)
        for name, change in _templates(info).items():
            yield case(material, f"{kind}: {name}", change, "refused", kind)
        for name, change in _files(kind).items():
            yield case(material, f"{kind}: {name}", change, "refused", kind)
        for name, change in _columns(kind).items():
            yield case(material, f"{kind}: {name}", change, "refused", kind)
        for name, change in _right(info).items():
            yield case(material, f"valid, {kind}: {name}", change, "accepted", kind)
    for name, data in _films(material).items():
        expected = "same" if name.startswith("moov") else "refused"
        yield case(material, f"films: {name}", written(FILM, data), expected, "films")
    for name, change in _cells().items():
        yield case(material, f"set: {name}", change, "refused", "set")


OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that every data set has, whose type is looked up in the tables themselves."""
EQUAL = {("null", "names"), ("huge", "total_frames"), ("null", "video_path")}


def _templates(info: Any) -> dict[str, Change]:
    """name -> paths in info.json that lead out, or compute something."""
    found = {
        "outside": "../../outside/file",
        "absolute": "/etc/passwd",
        "home": "~/file.parquet",
        "a device": "/dev/zero",
        "outside, by format": "{chunk_index:.0f}../../../outside/file",
        "an attribute": "{chunk_index.__class__.__mro__}",
        "an item": "{chunk_index[0]}",
        "100 million columns": "{chunk_index:>100000000d}",
        "a place": "{0}/{1}",
        "nothing named": "{}/{}",
        "another name": "{folder}/x.parquet",
        "an open brace": "data/{chunk_index",
        "a close brace": "data/chunk_index}",
        "a conversion": "data/{chunk_index!r}",
        "an inner field": "{chunk_index:{file_index}}",
        "a type of text": "{chunk_index:s}",
        "no field": "data/file.parquet",
        "NUL": "data/\x00{chunk_index}",
        "controls": "\x1b[31m{chunk_index}",
        "long": "x" * 10_000,
        "backslashes": "..\\..\\outside\\file",
        "empty": "",
        "the folder": ".",
    }
    return {
        f"{key} {name}": written(INFO, text({**info, key: value}))
        for key in ("data_path", "video_path")
        for name, value in found.items()
        if key == "data_path" or info["video_path"]
    }


def _files(kind: str) -> dict[str, Change]:
    """name -> a file that is missing, damaged, or no file."""
    found: dict[str, Change] = {}
    for file in (INFO, EPISODES, TASKS, DATA, *([FILM] if kind == "films" else [])):
        found |= {
            f"{file} missing": lambda folder, f=file: (folder / f).unlink(),
            f"{file} empty": written(file, b""),
            f"{file} half": lambda folder, f=file: _half(folder / f),
            f"{file} of zeros": written(file, bytes(5000)),
            f"{file} a git-lfs pointer": written(
                file, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
            ),
            f"{file} a folder": lambda folder, f=file: remade(folder / f, Path.mkdir),
            f"{file} a pipe": lambda folder, f=file: remade(folder / f, os.mkfifo),
            f"{file} a link to itself": lambda folder, f=file: remade(
                folder / f, lambda p: p.symlink_to(p.name)
            ),
            f"{file} a link to zeros": lambda folder, f=file: remade(
                folder / f, lambda p: p.symlink_to("/dev/zero")
            ),
            f"{file} a web page": written(file, b"<!DOCTYPE html><html></html>"),
        }
    found["no meta"] = lambda folder: shutil.rmtree(folder / "meta")
    found["no data"] = lambda folder: shutil.rmtree(folder / "data")
    found["an empty folder"] = lambda folder: [shutil.rmtree(p) for p in folder.iterdir()]
    found["a file"] = lambda folder: [shutil.rmtree(folder), folder.write_text("x")]
    found["nothing"] = lambda folder: shutil.rmtree(folder)
    return found


def _half(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _column(file: str, name: str, values: Callable[[list[Any]], Any] | None) -> Change:
    """Other values in a column, or no column."""

    def change(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(folder / file)
        place = table.column_names.index(name)
        old = table.column(place).to_pylist()
        made = table.remove_column(place)
        if values is not None:
            made = made.add_column(place, name, pa.array(values(old)))
        (folder / file).unlink()
        pq.write_table(made, folder / file)

    return change


KINDS: dict[str, Callable[[list[Any]], Any] | None] = {
    "gone": None,
    "null": lambda old: [None] * len(old),
    "one null": lambda old: [None, *old[1:]],
    "texts": lambda old: ["x"] * len(old),
    "fractions": lambda old: [0.5] * len(old),
    "NaN": lambda old: [float("nan")] * len(old),
    "negative": lambda old: [-1] * len(old),
    "huge": lambda old: [2**62] * len(old),
    "turned round": lambda old: [*old[:0], *reversed(old)],
    "lists": lambda old: [[1.0, 2.0]] * len(old),
    "booleans": lambda old: [True] * len(old),
}


def _columns(kind: str) -> dict[str, Change]:
    """name -> a table with other values in a column that is read."""
    places = [(EPISODES, name) for name in ("episode_index", "length", "dataset_from_index")]
    places += [(EPISODES, name) for name in ("data/chunk_index", "data/file_index", "tasks")]
    places += [(DATA, name) for name in ("timestamp", "frame_index", "episode_index", "action")]
    places += [(DATA, "task_index"), (TASKS, "task_index")]
    if kind == "films":
        places += [
            (EPISODES, f"videos/{CAMERA}/{name}") for name in ("from_timestamp", "file_index")
        ]
    found = {}
    for file, name in places:
        for odd, values in KINDS.items():
            if (
                (odd, name) in MEANINGLESS
                or (name == "tasks" and "null" in odd)
                or (odd == "gone" and name == "tasks")
            ):
                continue
            found[f"{file.split('/')[1]} {name} {odd}"] = _column(file, name, values)
    return found


MEANINGLESS = {("lists", "action"), ("lists", "tasks"), ("turned round", "action")}
MEANINGLESS |= {("turned round", "length"), ("turned round", "tasks"), ("negative", "action")}
MEANINGLESS |= {("turned round", name) for name in ("data/chunk_index", "data/file_index")}
MEANINGLESS |= {("turned round", name) for name in ("file_index", "task_index")}
MEANINGLESS |= {("gone", "dataset_from_index"), ("null", "dataset_from_index")}
MEANINGLESS |= {("turned round", f"videos/{CAMERA}/file_index")}
MEANINGLESS |= {("turned round", f"videos/{CAMERA}/from_timestamp")}


def _cells() -> dict[str, Change]:
    """name -> image cells of a table that are no images, or lead out."""
    values: dict[str, Any] = {
        "bytes that are no image": {"bytes": b"x" * 100, "path": None},
        "no bytes": {"bytes": b"", "path": None},
        "nothing": {"bytes": None, "path": None},
        "a path that leads out": {"bytes": None, "path": "../../outside/file"},
        "an absolute path": {"bytes": None, "path": "/etc/passwd"},
        "a path to a device": {"bytes": None, "path": "/dev/zero"},
        "a path that is not there": {"bytes": None, "path": "images/a.png"},
        "EPS": {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n", "path": None},
        "PSD": {"bytes": b"8BPS\0\1" + bytes(500), "path": None},
    }
    found = {f"cells: {name}": _column(DATA, CAMERA, _all(value)) for name, value in values.items()}
    found["cells: texts"] = _column(DATA, CAMERA, lambda old: ["x"] * len(old))
    found["cells: numbers"] = _column(DATA, CAMERA, lambda old: [1] * len(old))
    found["cells: gone"] = _column(DATA, CAMERA, None)
    found["cells: other size"] = _column(DATA, CAMERA, _all({"bytes": _png(8, 8), "path": None}))
    found["cells: huge"] = _column(
        DATA, CAMERA, _all({"bytes": _png(60_000, 60_000), "path": None})
    )
    return found


def _all(value: Any) -> Callable[[list[Any]], Any]:
    return lambda old: [value] * len(old)


def _png(width: int, height: int) -> bytes:
    import zlib

    from .images import png

    rows = zlib.compress(bytes((width * 3 + 1) * height) if width < 100 else bytes(1000))
    return png(width, height, rows)


def _films(material: Path) -> dict[str, bytes]:
    """name -> bytes in place of an mp4 file."""
    from .mutate import cut

    data = (material / "films" / FILM).read_bytes()
    found = dict(cut(data, 9))
    listed = b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    found["a playlist"] = listed
    found["a list of files"] = b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    found["an image"] = (material / "image.png").read_bytes()
    found["a sdp"] = b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"
    found["SVG"] = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    place = data.find(b"mvhd")
    for name, at in {"moov": data.find(b"moov"), "mvhd": place, "stsz": data.find(b"stsz")}.items():
        found[f"{name} of another size"] = data[: at - 4] + b"\x7f\xff\xff\xff" + data[at:]
        found[f"{name} of another name"] = data[:at] + b"free" + data[at + 4 :]
    return found


def _right(info: Any) -> dict[str, Change]:
    """name -> the same data set, written otherwise."""

    def linked(folder: Path) -> None:
        for place, file in enumerate([p for p in folder.rglob("*") if p.is_file()]):
            file.rename(folder.parent / f"blob-{place}")
            file.symlink_to(os.path.relpath(folder.parent / f"blob-{place}", file.parent))

    found: dict[str, Change] = {
        "as it is": lambda folder: None,
        "info.json on one line": written(INFO, json.dumps(info)),
        "info.json turned round": written(INFO, json.dumps(dict(reversed(info.items())))),
        "info.json with crlf": written(INFO, json.dumps(info, indent=2).replace("\n", "\r\n")),
        "a key more": written(INFO, json.dumps({**info, "more": {"a": [None, "käse"]}})),
        "fps of 10.0": written(INFO, json.dumps({**info, "fps": 10.0})),
        "another robot": written(INFO, json.dumps({**info, "robot_type": "käse ☕"})),
        "no robot": written(INFO, json.dumps(changed(info, ("robot_type",), None))),
        "no stats.json": lambda folder: (folder / STATS).unlink(),
        "links, as in a cache": linked,
        "a card": written("README.md", b"# mine"),
        "hidden files": written("data/.DS_Store", bytes(50)),
        "the folder is a link": lambda folder: [
            folder.rename(folder.parent / "elsewhere"),
            folder.symlink_to("elsewhere"),
        ],
    }
    for key in info:
        found[f"{key} first"] = written(INFO, json.dumps({key: info[key], **info}))
    return found


def valid(material: Path, kind: str) -> Case:
    """The data sets that all are made from."""
    return case(material, "valid", lambda folder: None, "accepted", kind)


def case(material: Path, name: str, change: Change, expected: Expected, kind: str) -> Case:
    """Look for faults in the changed data set."""

    def make(here: Path) -> None:
        put(material, here, ["spec.toml", kind])
        change(here / kind)

    args = ("data", "check", kind, "--spec", "spec.toml", "--decode", "--json")
    return Case(name, make, args, expected, kind)

"""Indexes of shards: every value replaced, contradictions with the shards, names that lead out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .changes import Change, written
from .material import ACT, put
from .mutate import DEEP, documents, safetensors, text
from .weights import parts

INDEX = "shards/model.safetensors.index.json"
SHARD = "shards/model-00002-of-00003.safetensors"
OUT = "../../outside/w.safetensors"
UNREAD = ("the index is a pipe", "the index is a folder", "two indexes")
"""Where the shards are a whole set by their names, which then needs no index."""


def cases(material: Path) -> Iterator[Case]:
    """The index changed in one place, as a whole, and against its shards; then right ones."""
    index = json.loads((material / INDEX).read_text())
    kept = dict(list(index["weight_map"].items())[:3])
    for way in ("act", "inspect"):
        few = [("weight_map", name) for name in kept]
        places = [("metadata",), ("metadata", "total_size"), ("weight_map",), *few]
        for name, path, kind, made in documents(index, every=places):
            size = path[0] == "metadata"
            if size and kind not in ("deep", "digits", "surrogate", "nan", "inf", "overflow"):
                expected: Expected = "same"
            else:
                expected = "same" if kind == "twice" or size else "refused"
            yield case(material, f"{way}: {name}", written(INDEX, made), expected, way)
        for name, made in _whole(index).items():
            yield case(material, f"{way}: {name}", written(INDEX, made), "refused", way)
        for name, target in _names().items():
            yield case(material, f"{way}: shard is {name}", _leads(index, target), "refused", way)
        for name, change in _against(index).items():
            expected = "same" if name in UNREAD else "refused"
            yield case(material, f"{way}: {name}", change, expected, way)
        for name, change in _right(index).items():
            yield case(material, f"valid, {way}: {name}", change, "accepted", way)


def _whole(index: Any) -> dict[str, str | bytes]:
    """name -> an index that as a whole is none."""
    plain = json.dumps(index)
    first = next(iter(index["weight_map"]))
    shard = index["weight_map"][first]
    many = {f"n{i}": f"shard-{i}.safetensors" for i in range(100_000)}
    same = {f"n{i}": shard for i in range(400_000)}
    found: dict[str, str | bytes] = {
        "empty": "",
        "list": f"[{plain}]",
        "null": "null",
        "number": "1",
        "text": '"abc"',
        "empty table": "{}",
        "no names": '{"weight_map": {}}',
        "no map": '{"metadata": {}}',
        "map of a list": json.dumps({"weight_map": list(index["weight_map"].items())}),
        "map of a text": '{"weight_map": "model"}',
        "deep": '{"weight_map": {"a":' * 1000 + "1",
        "deep and closed": '{"weight_map": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}",
        "trailing comma": plain[:-1] + ",}",
        "two documents": plain + plain,
        "utf-16": plain.encode("utf-16"),
        "latin-1": plain.encode() + b"\xe4",
        "zeros": bytes(500),
        "a git-lfs pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a web page": "<!DOCTYPE html><html></html>",
        "name twice": plain.replace('"weight_map": {', f'"weight_map": {{"{first}": "other", '),
        "map twice": plain[:-1] + ', "weight_map": {}}',
        "100,000 shards that are missing": json.dumps({"weight_map": many}),
        "400,000 names that are missing": json.dumps({"weight_map": same}),
        "10 MB of spaces": " " * 10_000_000,
    }
    for part in range(1, 6):
        found[f"first {part} of 6"] = plain[: len(plain) * part // 6]
    return found


def _names() -> dict[str, Any]:
    """What the index may call a shard, none of which is one of its folder."""
    return {
        "outside": OUT,
        "outside, by a folder": f"../shards/{OUT}",
        "absolute": "/etc/passwd",
        "home": "~/w.safetensors",
        "a device": "/dev/zero",
        "the folder": ".",
        "the parent": "..",
        "nothing": "",
        "NUL": "a\x00.safetensors",
        "controls": "\x1b[31m.safetensors",
        "backslashes": "..\\..\\outside\\w.safetensors",
        "a url": "https://example.com/w.safetensors",
        "hub": "hf:owner/name",
        "long": "x" * 5000 + ".safetensors",
        "the index": "model.safetensors.index.json",
        "a pickle": "w.pt",
        "wildcards": "*.safetensors",
        "within a subfolder that leads out": "sub/../../../outside/w.safetensors",
    }


def _leads(index: Any, target: str) -> Change:
    """One tensor in a shard of another name; a good copy of the shard lies outside."""

    def change(here: Path) -> None:
        names = dict(index["weight_map"])
        wrong = Path(SHARD).name
        moved = {name: target if shard == wrong else shard for name, shard in names.items()}
        (here / INDEX).write_text(text({**index, "weight_map": moved}))
        shutil.copy(here / SHARD, here.parent / "outside" / "w.safetensors")

    return change


def _against(index: Any) -> dict[str, Change]:
    """name -> what makes index and shards contradict each other."""
    names = index["weight_map"]
    first = next(iter(names))

    def another(here: Path, name: str, shard: str) -> None:
        changed = {**index, "weight_map": {**names, name: shard}}
        (here / INDEX).write_text(json.dumps(changed))

    def lacking(here: Path) -> None:
        less = {name: shard for name, shard in names.items() if name != first}
        (here / INDEX).write_text(json.dumps({**index, "weight_map": less}))

    def emptied(here: Path, data: bytes) -> None:
        (here / SHARD).write_bytes(data)

    def half(here: Path) -> None:
        data = (here / SHARD).read_bytes()
        (here / SHARD).write_bytes(data[: len(data) // 2])

    def again(here: Path) -> None:
        header, body = parts(here / SHARD)
        source = next(shard for shard in names.values() if shard != Path(SHARD).name)
        other, more = parts(here / "shards" / source)
        name = next(name for name in other if name != "__metadata__")
        entry = dict(other[name])
        start, end = entry["data_offsets"]
        entry["data_offsets"] = [len(body), len(body) + end - start]
        data = safetensors({**header, name: entry}, body + more[start:end])
        (here / SHARD).write_bytes(data)

    wrong = next(shard for shard in names.values() if shard != names[first])
    return (
        {
            "a name more": lambda here: another(here, "nothing.weight", names[first]),
            "a name in another shard": lambda here: another(here, first, wrong),
            "a name less": lacking,
            "a shard is missing": lambda here: (here / SHARD).unlink(),
            "a shard is empty": lambda here: emptied(here, b""),
            "a shard is half": half,
            "a shard is another": lambda here: shutil.copy(
                here / "shards" / (names[first] if names[first] != Path(SHARD).name else wrong),
                here / SHARD,
            ),
            "a shard without tensors": lambda here: emptied(here, safetensors({}, b"")),
            "a shard is a folder": lambda here: _replaced(here, lambda file: file.mkdir()),
            "a shard is a pipe": lambda here: _replaced(here, os.mkfifo),
            "a shard is a link to itself": lambda here: _replaced(
                here, lambda f: f.symlink_to(f.name)
            ),
            "a shard is a link to zeros": lambda here: _replaced(
                here, lambda f: f.symlink_to("/dev/zero")
            ),
            "a tensor in two shards": again,
            "the index is a folder": lambda here: _replaced(here, lambda f: f.mkdir(), INDEX),
            "the index is a pipe": lambda here: _replaced(here, os.mkfifo, INDEX),
            "no index and a shard less": lambda here: [(here / n).unlink() for n in (INDEX, SHARD)],
            "two indexes": lambda here: shutil.copy(
                here / INDEX, here / "shards/b.safetensors.index.json"
            ),
        }
        if first
        else {}
    )


def _replaced(here: Path, write: Callable[[Path], Any], name: str = SHARD) -> None:
    (here / name).unlink()
    write(here / name)


def _right(index: Any) -> dict[str, Change]:
    """name -> an index and shards that say the same."""
    names = index["weight_map"]
    turned = dict(reversed(names.items()))

    def linked(here: Path) -> None:
        for shard in set(names.values()):
            (here / "shards" / shard).rename(here / f"blob-{shard[6:11]}")
            (here / "shards" / shard).symlink_to(f"../blob-{shard[6:11]}")

    return {
        "as it is": lambda here: None,
        "turned round": written(INDEX, json.dumps({**index, "weight_map": turned})),
        "indented": written(INDEX, json.dumps(index, indent=8)),
        "without metadata": written(INDEX, json.dumps({"weight_map": names})),
        "more metadata": written(
            INDEX, json.dumps({**index, "metadata": {"total_size": 0, "x": "käse"}})
        ),
        "a key more": written(INDEX, json.dumps({**index, "more": [1, 2]})),
        "crlf": written(INDEX, json.dumps(index, indent=1).replace("\n", "\r\n")),
        "escapes": written(INDEX, json.dumps(index).replace("model-", "\\u006dodel-")),
        "no index": lambda here: (here / INDEX).unlink(),
        "links, as in a cache": linked,
        "a note next to them": lambda here: (here / "shards" / "README.md").write_text("# note"),
        "a config of no model": lambda here: (here / "shards" / "config.json").write_text("{}"),
    }


def valid(material: Path, way: str) -> Case:
    """The shards that all are made from."""
    return case(material, "valid", lambda here: None, "accepted", way)


def case(material: Path, name: str, change: Change, expected: Expected, way: str) -> Case:
    """Read the changed folder of shards."""

    def make(here: Path) -> None:
        put(material, here, ["spec.toml", "image.png", "shards"])
        change(here)

    args = {
        "act": ("act", "spec.toml", *ACT, "--set", "backbone.weights=shards"),
        "inspect": ("weights", "inspect", "shards", "--json"),
    }
    return Case(name, make, args[way], expected, way)

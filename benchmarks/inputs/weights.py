"""Safetensors files: headers, offsets, types and numbers that are wrong, and odd ones."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .material import ACT, put
from .mutate import DEEP, ODD, changed, cut, documents, flipped, safetensors, text

FILE = "w.safetensors"
WAYS = ("act", "inspect", "convert")
"""Who reads the file: a policy, or one of the commands that look into it."""
Change = Callable[[dict[str, Any], bytes], tuple[Any, bytes]]


def parts(file: Path) -> tuple[dict[str, Any], bytes]:
    """Header and body of a safetensors file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def cases(material: Path) -> Iterator[Case]:
    """The beginning of the file, every kind of header, bodies; then files that are right."""
    file = material / "policy" / "text_encoder.safetensors"
    header, body = parts(file)
    header.pop("__metadata__", None)
    data = safetensors(header, body)
    for name, damaged in cut(data, 6):
        yield case(material, name, damaged)
    for way in WAYS:
        for name, damaged in flipped(data, [*range(8), *range(8, 200, 13)]):
            expected = "either" if way == "inspect" else "same"  # of a name another one
            yield case(material, f"{way}: {name}", damaged, expected, way)
        for name, damaged in _whole(header, body).items():
            yield case(material, f"{way}: {name}", damaged, "refused", way)
        first = next(iter(header))
        for name, path, kind, made in documents({first: header[first], **header}):
            if (path[0] == first and kind != "without") or (len(path) == 1 and kind in SOME):
                expected: Expected = "same" if kind in ("twice", "true") else "refused"
                if way == "inspect" and path[-1] == "dtype" and isinstance(ODD.get(kind), str):
                    expected = "either"  # a type that is not known yet is shown, and not read
                yield case(material, f"{way}: {name}", safetensors(made, body), expected, way)
    for name, damaged in _values(header, body).items():
        yield case(material, f"values: {name}", damaged)
    for name, make in _special().items():
        for way in WAYS[:2]:
            yield _case(material, f"{way}: {name}", make, "refused", way)
    yield from _valid(material, header, body)


SOME = ("null", "list", "deep", "table")


def _whole(header: dict[str, Any], body: bytes) -> dict[str, bytes]:
    """name -> a file whose header as a whole is wrong."""
    first, entry = next(iter(header.items()))
    plain = json.dumps(header)
    entries = {
        f"n{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(400_000)
    }
    nested = json.dumps({first: entry})[:-1]
    end = entry["data_offsets"][1]
    late = max(header, key=lambda name: header[name]["data_offsets"])
    size = header[late]["data_offsets"][1] - header[late]["data_offsets"][0]
    found = {
        "header of a list": safetensors([header], body),
        "header of a number": safetensors("1", body),
        "header of null": safetensors("null", body),
        "empty header": safetensors("", body),
        "header of spaces": safetensors(" " * 100, body),
        "header without an end": safetensors(plain[:-1], body),
        "header deep": safetensors('{"a":' * DEEP, body),
        "header deep and closed": safetensors("[" * 5000 + "]" * 5000, body),
        "header that is no UTF-8": struct.pack("<Q", 4) + b"{\xff\xfe}" + body,
        "header in UTF-16": struct.pack("<Q", 2 * len(plain)) + plain.encode("utf-16-le") + body,
        "name twice": safetensors(nested + f', "{first}": {json.dumps(entry)}}}', body),
        "400,000 names": safetensors(entries, b""),
        "name of 1 MB": safetensors({"x" * 10**6: entry, **header}, body),
        "name with controls": safetensors({"\x1b[31m\x07": entry, **header}, body),
        "name of half a character": safetensors(text({**header}).replace(first, "\\ud800"), body),
        "empty name": safetensors(_renamed(header, first, ""), body),
        "name that is a path": safetensors(_renamed(header, first, "../../outside/file"), body),
        "length 0": safetensors(header, body, 0),
        "length 1": safetensors(header, body, 1),
        "length of 2 GiB": safetensors(header, body, 2**31),
        "length of 2 ** 63": safetensors(header, body, 2**63),
        "length of 2 ** 64 - 1": safetensors(header, body, 2**64 - 1),
        "length beyond the header": safetensors(header, body, len(plain) + 7),
        "metadata of a list": safetensors({"__metadata__": [], **header}, body),
        "metadata of numbers": safetensors({"__metadata__": {"a": 1}, **header}, body),
        "metadata of tables": safetensors({"__metadata__": {"a": {}}, **header}, body),
        "metadata null": safetensors({"__metadata__": None, **header}, body),
        "offsets that overlap": safetensors(_offsets(header, late, [0, size]), body),
        "offsets turned round": safetensors(_offsets(header, first, [end, 0]), body),
        "offsets below 0": safetensors(_offsets(header, first, [-end, 0]), body),
        "offsets of fractions": safetensors(_offsets(header, first, [0.0, float(end)]), body),
        "offsets of texts": safetensors(_offsets(header, first, ["0", str(end)]), body),
        "offsets of booleans": safetensors(_offsets(header, first, [False, True]), body),
        "one offset": safetensors(_offsets(header, first, [0]), body),
        "three offsets": safetensors(_offsets(header, first, [0, end, end]), body),
        "offsets beyond the file": safetensors(_offsets(header, first, [0, 2**40]), body),
        "offsets beyond 64 bits": safetensors(_offsets(header, first, [0, 2**70]), body),
        "a hole": safetensors({k: _moved(v, 64) for k, v in header.items()}, bytes(64) + body),
        "bytes behind": safetensors(header, body + bytes(64)),
        "bytes missing": safetensors(header, body[:-1]),
        "no body": safetensors(header),
        "more rows than there are": safetensors(_shape(header, first, [2**20, 16]), body),
        "shape below 0": safetensors(_shape(header, first, [-1, -1]), body),
        "shape of 10,000 sizes": safetensors(_shape(header, first, [1] * 10_000), body),
        "shape beyond 64 bits": safetensors(_shape(header, first, [2**40, 2**40]), body),
        "shape of 0 and huge": safetensors(_shape(header, first, [0, 2**62]), body),
        "an unknown type": safetensors(changed(header, (first, "dtype"), "F99"), body),
        "another size of a type": safetensors(changed(header, (first, "dtype"), "F64"), body),
        "a pickle": b"\x80\x02cos\nsystem\nX\x15\x00\x00\x00touch ../outside/ran\x85R.",
        "a zip": b"PK\x03\x04" + bytes(100),
        "gguf": b"GGUF\x03\x00\x00\x00" + bytes(100),
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a web page": b"<!DOCTYPE html><html></html>",
    }
    return found


def _renamed(header: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: entry for name, entry in header.items()}


def _offsets(header: dict[str, Any], name: str, offsets: list[Any]) -> dict[str, Any]:
    return changed(header, (name, "data_offsets"), offsets)


def _shape(header: dict[str, Any], name: str, shape: list[int]) -> dict[str, Any]:
    return changed(header, (name, "shape"), shape)


def _moved(entry: dict[str, Any], by: int) -> dict[str, Any]:
    return {**entry, "data_offsets": [place + by for place in entry["data_offsets"]]}


def _values(header: dict[str, Any], body: bytes) -> dict[str, bytes]:
    """name -> a file that is well formed and holds what no policy can have."""
    first, entry = next(iter(header.items()))
    start, end = entry["data_offsets"]
    whole = {name: {**e, "dtype": "I32"} for name, e in header.items()}
    less = {name: e for name, e in header.items() if name != first}
    shorter = {name: _moved(e, -(end - start)) for name, e in less.items()}
    nan, inf = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
    return {
        "NaN at the beginning": safetensors(header, nan + body[4:]),
        "NaN at the end": safetensors(header, body[:-4] + nan),
        "infinity": safetensors(header, body[:-4] + inf),
        "all NaN": safetensors(header, nan * (len(body) // 4)),
        "integers": safetensors(whole, body),
        "unsigned integers": safetensors(
            {n: {**e, "dtype": "U32"} for n, e in header.items()}, body
        ),
        "booleans": safetensors(
            {n: {**e, "dtype": "BOOL", "shape": [*e["shape"], 4]} for n, e in header.items()}, body
        ),
        "another shape": safetensors(_shape(header, first, [*entry["shape"], 1]), body),
        "flat": safetensors(_shape(header, first, [(end - start) // 4]), body),
        "one missing": safetensors(shorter, body[end:] if start == 0 else body),
        "none": safetensors({}, b""),
        "only metadata": safetensors({"__metadata__": {"a": "b"}}, b""),
        "one more": safetensors(
            {
                **header,
                "more": {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]},
            },
            body + bytes(4),
        ),
        "another name": safetensors(_renamed(header, first, f"{first}x"), body),
        "turned": safetensors(_shape(header, first, entry["shape"][::-1]), body)
        if entry["shape"] != entry["shape"][::-1] and len(entry["shape"]) > 1
        else safetensors(_shape(header, first, [1, *entry["shape"]]), body),
    }


def _special() -> dict[str, Callable[[Path], Any]]:
    def sparse(file: Path) -> None:
        with file.open("wb") as stream:
            stream.write(struct.pack("<Q", 2**35))
            stream.truncate(2**36)

    def sparse_body(file: Path) -> None:
        entry = {"dtype": "F32", "shape": [2**34], "data_offsets": [0, 2**36]}
        head = safetensors({"a": entry})
        with file.open("wb") as stream:
            stream.write(head)
            stream.truncate(len(head) + 2**36)

    return {
        "a folder": lambda file: file.mkdir(),
        "a pipe": lambda file: os.mkfifo(file),
        "a link to itself": lambda file: file.symlink_to(file.name),
        "a link to nothing": lambda file: file.symlink_to("nothing"),
        "a link to zeros": lambda file: file.symlink_to("/dev/zero"),
        "nothing": lambda file: None,
        "a sparse header of 32 GiB": sparse,
        "a sparse body of 64 GiB": sparse_body,
    }


def _valid(material: Path, header: dict[str, Any], body: bytes) -> Iterator[Case]:
    """The same weights, written otherwise."""
    spaced = json.dumps(header).ljust(4096)
    same = {
        "as it is": safetensors(header, body),
        "spaces behind the header": safetensors(spaced, body),
        "indented": safetensors(json.dumps(header, indent=9), body),
        "names turned round": safetensors(dict(reversed(header.items())), body),
        "keys turned round": safetensors(
            {n: dict(reversed(e.items())) for n, e in header.items()}, body
        ),
        "metadata": safetensors({"__metadata__": {"format": "pt"}, **header}, body),
        "odd metadata": safetensors({"__metadata__": {"\x1b[31m": "käse ☕"}, **header}, body),
        "metadata at the end": safetensors({**header, "__metadata__": {"a": ""}}, body),
        "64 KB of metadata": safetensors({"__metadata__": {"a": "x" * 65_536}, **header}, body),
    }
    for name, data in same.items():
        for way in WAYS:
            yield case(material, f"valid, {way}: {name}", data, "accepted", way)
    for precision in ("F64", "F16", "BF16"):
        data = _cast(header, body, precision)
        yield case(material, f"valid: in {precision}", data, "either")


def _cast(header: dict[str, Any], body: bytes, precision: str) -> bytes:
    import torch
    from safetensors.torch import load, save

    kinds = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = load(safetensors(header, body))
    return save({name: tensor.to(kinds[precision]) for name, tensor in tensors.items()})


def valid(material: Path, way: str) -> Case:
    """The weights that all are made from."""
    header, body = parts(material / "policy" / "text_encoder.safetensors")
    header.pop("__metadata__", None)
    return case(material, "valid", safetensors(header, body), "accepted", way)


def case(
    material: Path, name: str, data: bytes, expected: Expected = "refused", way: str = "act"
) -> Case:
    """Read a file with these bytes."""
    return _case(material, name, lambda file: file.write_bytes(data), expected, way)


def _case(
    material: Path, name: str, write: Callable[[Path], Any], expected: Expected, way: str
) -> Case:
    def make(here: Path) -> None:
        put(material, here, ["spec.toml", "image.png"])
        write(here / FILE)

    args = {
        "act": ("act", "spec.toml", *ACT, "--set", f"text_encoder.weights={FILE}"),
        "inspect": ("weights", "inspect", FILE, "--json"),
        "convert": (
            "weights",
            "convert",
            FILE,
            "--part",
            "text_encoder:bytes",
            "--json",
            "--set",
            "embedding=16",
            "--out",
            "out.safetensors",
        ),
    }
    return Case(name, make, args[way], expected, way, out=("out.safetensors",))

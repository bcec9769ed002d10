"""Embeddings and latents that are stored: of other sizes, types, settings, damaged, swapped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .changes import Change, remade, written
from .material import ACT, put
from .mutate import ODD, cut, documents, flipped, safetensors, text
from .weights import parts

EMBEDDINGS = "embeddings/text.safetensors"
ABOUT, LATENTS = "latents/latents.json", "latents/latents-00000-of-00001.safetensors"
KINDS = tuple(kind for kind in ODD if kind not in ("escape", "format", "outside"))


def cases(material: Path) -> Iterator[Case]:
    """Embeddings, then latents: bytes, tensors, what is said of them, files; and right ones."""
    for way, file in (("act", EMBEDDINGS), ("train", LATENTS)):
        data = (material / file).read_bytes()
        for name, damaged in cut(data, 8):
            yield case(material, f"{way}: {name}", written(file, damaged), way)
        for name, damaged in flipped(data, [*range(8), *range(8, 300, 41)]):
            yield case(material, f"{way}: {name}", written(file, damaged), way, "same")
        for name, change in _tensors(material, way).items():
            yield case(material, f"{way}: {name}", change, way)
        for name, change in _places(file).items():
            yield case(material, f"{way}: {name}", change, way)
    for name, change in _said(material).items():
        yield case(material, f"act: {name}", change, "act")
    about = json.loads((material / ABOUT).read_text())
    for name, path, kind, made in documents(about, (*KINDS, "without", "twice")):
        expected: Expected = "same" if path[0] in LOOSE or kind in LIKE else "refused"
        yield case(material, f"train: latents.json {name}", written(ABOUT, made), "train", expected)
    for name, change in _files(about).items():
        yield case(material, f"train: {name}", change, "train")
    for name, (way, change) in _right(material, about).items():
        yield case(material, f"valid, {way}: {name}", change, way, "accepted")


LOOSE = ("dtype", "stride", "clips", "moments", "episodes")
"""What is said of latents and not needed to read them."""
LIKE = ("twice", "without", "null", "list", "table", "zero", "fraction", "true")


def _tensors(material: Path, way: str) -> dict[str, Change]:
    """name -> tensors of another type, size or number."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save

    file = EMBEDDINGS if way == "act" else LATENTS
    good = load_file(material / file)
    with safe_open(material / file, framework="pt") as reader:
        about = reader.metadata()
    key = "0.tokens" if way == "act" else "latents"
    value = good[key]

    def saved(tensors: dict[str, Any]) -> Change:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        return written(file, save(whole, about))

    def with_value(changed: Any) -> Change:
        return saved({**good, key: changed})

    found = {
        "integers": with_value(value.int()),
        "bytes": with_value(value.to(torch.uint8)),
        "booleans": with_value(value.bool()),
        "float8": with_value(value.to(torch.float8_e4m3fn)),
        "complex": with_value(value.to(torch.complex64)),
        "NaN": with_value(torch.full_like(value, float("nan"))),
        "one NaN": with_value(_poked(value, float("nan"))),
        "infinity": with_value(_poked(value, float("-inf"))),
        "flat": with_value(value.flatten()),
        "a number": with_value(value.flatten()[0]),
        "empty": with_value(value[:0]),
        "wider": with_value(torch.cat([value, value], -1)),
        "narrower": with_value(value[..., :1]),
        "an axis more": with_value(value[None]),
        "an axis less": with_value(value[0]),
        "turned": with_value(value.transpose(-1, -2)),
        "no tensors": saved({}),
        "missing": saved({name: tensor for name, tensor in good.items() if name != key}),
    }
    if way == "train":
        starts = good["starts"]
        found |= {
            "rows missing": with_value(value[:5]),
            "rows missing in starts": saved({**good, "starts": starts[:5]}),
            "starts of fractions": saved({**good, "starts": starts.float() + 0.5}),
            "starts below 0": saved({**good, "starts": starts - 100}),
            "starts of other episodes": saved({**good, "starts": starts + 1000}),
            "starts flat": saved({**good, "starts": starts.flatten()}),
            "starts of one column": saved({**good, "starts": starts[:, :1]}),
            "starts of three columns": saved({**good, "starts": torch.cat([starts, starts], 1)}),
            "starts twice": saved({**good, "starts": starts * 0}),
            "no starts": saved({"latents": value}),
            "starts of NaN": saved({**good, "starts": starts.double() * float("nan")}),
            "more channels": with_value(torch.cat([value, value], 1)),
            "fewer frames": with_value(value[:, :, :1]),
            "higher": with_value(torch.cat([value, value], -2)),
        }
    else:
        found |= {
            "a mask of another length": saved({**good, "0.valid": torch.ones(1, 3)}),
            "a mask of texts": saved({**good, "0.valid": torch.full((1, 16), 7.5)}),
            "a mask of nothing": saved({**good, "0.valid": torch.zeros(1, value.shape[1])}),
            "copies of NaN": saved({**good, "0.copies": torch.full(value.shape[:2], float("nan"))}),
            "copies below 0": saved({**good, "0.copies": torch.full(value.shape[:2], -1.0)}),
            "two samples": with_value(torch.cat([value, value])),
        }
    return found


def _poked(value: Any, number: float) -> Any:
    result = value.clone()
    result.flatten()[-1] = number
    return result


def _places(file: str) -> dict[str, Change]:
    """name -> no file where the file is."""
    return {
        "no file": lambda here: (here / file).unlink(),
        "a folder": lambda here: remade(here / file, Path.mkdir),
        "a pipe": lambda here: remade(here / file, os.mkfifo),
        "a link to itself": lambda here: remade(here / file, lambda f: f.symlink_to(f.name)),
        "a link to nothing": lambda here: remade(here / file, lambda f: f.symlink_to("nothing")),
        "a link to zeros": lambda here: remade(here / file, lambda f: f.symlink_to("/dev/zero")),
        "an image": lambda here: shutil.copy(here / "image.png", here / file),
        "another file of weights": lambda here: (here / file).write_bytes(safetensors({})),
        "a git-lfs pointer": written(
            file, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        ),
    }


def _said(material: Path) -> dict[str, Change]:
    """name -> embeddings whose metadata are wrong."""
    header, body = parts(material / EMBEDDINGS)
    about = header["__metadata__"]

    def metadata(**values: Any) -> Change:
        return written(
            EMBEDDINGS, safetensors({**header, "__metadata__": {**about, **values}}, body)
        )

    found = {
        f"prompts: {name}": metadata(prompts=value)
        for name, value in {
            "empty": "",
            "null": "null",
            "number": "1",
            "table": "{}",
            "list": "[]",
            "numbers": "[1, 2]",
            "lists": '[["a"], ["b"]]',
            "deep": "[" * 10_000 + "]" * 10_000,
            "half": '["pick',
            "one less": '["open the drawer"]',
            "half a character": '["\\ud800", "b"]',
            "100,000": json.dumps([f"s{i}" for i in range(100_000)]),
        }.items()
    }
    settings = json.loads(about["settings"])
    found |= {
        "settings empty": metadata(settings=""),
        "settings null": metadata(settings="null"),
        "settings of another length": metadata(settings=json.dumps({**settings, "max_length": 9})),
        "settings of 1 MB": metadata(settings="x" * 10**6),
        "settings with controls": metadata(settings="\x1b[31m\x07"),
        "no metadata": written(EMBEDDINGS, safetensors({**header, "__metadata__": {}}, body)),
        "metadata of numbers": metadata(prompts=1),
        "metadata of a list": metadata(settings=["a"]),
    }
    return found


def _files(about: Any) -> dict[str, Change]:
    """name -> folders of latents that contradict themselves."""

    def other(**values: Any) -> Change:
        return written(ABOUT, text({**about, **values}))

    return {
        "no latents.json": lambda here: (here / ABOUT).unlink(),
        "latents.json is empty": written(ABOUT, ""),
        "latents.json is half": written(ABOUT, json.dumps(about)[:200]),
        "latents.json in UTF-16": written(ABOUT, json.dumps(about).encode("utf-16")),
        "latents.json of a list": written(ABOUT, json.dumps([about])),
        "latents.json is a folder": lambda here: remade(here / ABOUT, Path.mkdir),
        "latents.json is a pipe": lambda here: remade(here / ABOUT, os.mkfifo),
        "latents.json is zeros": lambda here: remade(
            here / ABOUT, lambda f: f.symlink_to("/dev/zero")
        ),
        "two shards": other(shards=2),
        "a billion shards": other(shards=10**9),
        "shards of a text": other(shards="1"),
        "no shards": other(shards=0),
        "other weights": other(weights="0" * 64),
        "other data": other(settings={**about["settings"], "data": "0" * 64}),
        "another VAE": other(settings={**about["settings"], "vae": {"name": "wan2.1"}}),
        "settings of nothing": other(settings={}),
        "the folder is empty": lambda here: [f.unlink() for f in (here / "latents").iterdir()],
        "the folder is a file": lambda here: [
            shutil.rmtree(here / "latents"),
            (here / "latents").write_text("x"),
        ],
    }


def _right(material: Path, about: Any) -> dict[str, tuple[str, Change]]:
    """name -> way, and the same embeddings or latents written otherwise."""
    found: dict[str, tuple[str, Change]] = {}
    for way, file in (("act", EMBEDDINGS), ("train", LATENTS)):
        header, body = parts(material / file)
        spaced = json.dumps(header).ljust(len(json.dumps(header)) + 1000)
        turned = dict(reversed(header.items()))
        for name, data in {
            "as it is": (material / file).read_bytes(),
            "spaces in the header": safetensors(spaced, body),
            "turned round": safetensors(turned, body),
            "indented": safetensors(json.dumps(header, indent=5), body),
        }.items():
            found[f"{way} {name}"] = (way, written(file, data))
        found[f"{way} a link"] = (way, lambda here, file=file: _linked(here, file))
        folder = file.partition("/")[0]
        found[f"{way} notes next to it"] = (way, written(f"{folder}/notes.txt", b"mine"))
    for key in about:
        made = json.dumps({key: about[key], **about})
        found[f"latents.json {key} first"] = ("train", written(ABOUT, made))
    found["latents.json on one line"] = ("train", written(ABOUT, json.dumps(about)))
    found["latents.json with crlf"] = (
        "train",
        written(ABOUT, json.dumps(about, indent=1).replace("\n", "\r\n")),
    )
    return found


def _linked(here: Path, file: str) -> None:
    (here / file).rename(here / "blob")
    (here / file).symlink_to("../blob")


def valid(material: Path, way: str) -> Case:
    """The embeddings and latents that all are made from."""
    return case(material, "valid", lambda here: None, way, "accepted")


def case(
    material: Path, name: str, change: Change, way: str, expected: Expected = "refused"
) -> Case:
    """Act with stored embeddings, or train with stored latents."""
    files = {
        "act": ["image.png", "frozen.toml", "embeddings"],
        "train": ["image.png", "spec.toml", "set", "latents"],
    }

    def make(here: Path) -> None:
        put(material, here, files[way])
        change(here)

    args = {
        "act": ("act", "frozen.toml", *ACT, "--set", f"text_encoder.embeddings_file={EMBEDDINGS}"),
        "train": (
            "train",
            "spec.toml",
            "--data",
            "set",
            "--latents",
            "latents",
            "--out",
            "out",
            "--steps",
            "1",
            "--batch",
            "20",
            "--train",
            "val_fraction=0",
            "--json",
        ),
    }
    return Case(name, make, args[way], expected, way, out=("out", "set/meta/wamkit"))

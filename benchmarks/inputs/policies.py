"""Saved policies: files removed, replaced and changed, specs that lead out, statistics."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .changes import Change, remade, written
from .material import ACT, put
from .mutate import changed, documents, get, safetensors, text
from .weights import parts

SPEC, STATISTICS = "policy/spec.yaml", "policy/statistics.json"
WEIGHTS = ("backbone", "action_head", "text_encoder")
ROW = ("min", "max", "mean", "std", "q01", "q99")
FREE = ("prompt_template", "negative_prompt", "derived_from", "license")
OPEN = (
    "clip",
    "times",
    "timestep_sampling",
    "mean",
    "std",
    "seed",
    "loss_weight",
    "loss_weighting",
    "band",
)
"""Settings of the spec that may be something else: training reads them, or nothing does."""


def cases(material: Path) -> Iterator[Case]:
    """The spec and the statistics by every value; files; paths; then right ones."""
    spec = _spec(material)
    for name, path, kind, made in documents(spec, KINDS):
        expected: Expected = "same" if kind in SOME or kind == "without" else "refused"
        if "name" in path[-1:] and path[0] in ("actions", "cameras"):
            expected = "either"
        if path[-1] in (*FREE, *OPEN) or path[0] == "schedules" or (path[-1], kind) in MAY:
            expected = "either"
        yield case(material, f"spec: {name}", written(SPEC, made), expected)
    table = {"action": _statistics(3)}
    for name, _, kind, made in documents(table, LISTS):
        yield case(material, f"statistics: {name}", written(STATISTICS, made), _row(name, kind))
    for name, change in _statistics_wrong(table).items():
        yield case(material, f"statistics: {name}", change)
    for name, change in _files().items():
        yield case(material, name, change)
    for name, value in _paths().items():
        for key in ("backbone.weights", "text_encoder.embeddings_file", "vae.weights"):
            change = _edited(spec, tuple(key.split(".")), value)
            yield case(material, f"{key} is {name}", change)
    for name, change in _right(material, spec, table).items():
        yield case(material, f"valid: {name}", change, "accepted")


KINDS = ("text", "list", "table", "true", "negative", "fraction", "nan", "inf", "deep", "escape")
KINDS += ("NUL", "digits", "without", "null", "surrogate", "huge", "zero", "format")
SOME = ("null", "true", "zero", "fraction", "huge", "list", "table", "negative", "text")
LISTS = (
    "null",
    "text",
    "table",
    "true",
    "nan",
    "inf",
    "deep",
    "digits",
    "huge",
    "overflow",
    "twice",
)
MAY = {
    ("value_range", "list"),
    ("control_hz", "fraction"),
    ("control_hz", "huge"),
    ("frame_stride", "huge"),
}
MAY |= {("co_training", "zero"), ("target_downscale", "true"), ("columns", "huge")}


def _row(name: str, kind: str) -> Expected:
    return "either" if kind in ("huge", "true") else "same" if kind == "twice" else "refused"


def _spec(material: Path) -> Any:
    import yaml

    return yaml.safe_load((material / SPEC).read_text())


def _statistics(size: int) -> dict[str, list[float]]:
    values = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5, "q01": -0.9, "q99": 0.9}
    return {name: [values[name]] * size for name in ROW}


def _edited(spec: Any, path: tuple[str, ...], value: Any) -> Change:
    return written(SPEC, text(changed(spec, path, value)))


def _statistics_wrong(table: Any) -> dict[str, Change]:
    """name -> statistics that no data can have, or of another robot."""
    row = table["action"]
    found: dict[str, Any] = {
        "of another size": {"action": _statistics(4)},
        "of no size": {"action": _statistics(0)},
        "min above max": {"action": {**row, "min": [2.0] * 3}},
        "negative std": {"action": {**row, "std": [-1.0] * 3}},
        "std of 0": {"action": {**row, "std": [0.0] * 3}},
        "mean beyond max": {"action": {**row, "mean": [5.0] * 3}},
        "quantiles turned round": {"action": {**row, "q01": [0.9] * 3, "q99": [-0.9] * 3}},
        "quantiles beyond the range": {"action": {**row, "q01": [-5.0] * 3, "q99": [5.0] * 3}},
        "std beyond the range": {"action": {**row, "std": [50.0] * 3}},
        "unequal": {"action": {**row, "min": [-1.0]}},
        "nested": {"action": {name: [values] for name, values in row.items()}},
        "a row more": {"action": {**row, "median": [0.0] * 3}},
        "of a state that there is not": {**table, "state": _statistics(2)},
        "of something": {**table, "nothing": row},
        "a list": [table],
        "null": None,
        "a number": 1,
    }
    made = {name: written(STATISTICS, text(value)) for name, value in found.items()}
    raw: dict[str, str | bytes] = {
        "empty": "",
        "half": json.dumps(table)[:40],
        "utf-16": json.dumps(table).encode("utf-16"),
        "zeros": bytes(100),
        "a git-lfs pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "twice": '{"action": 1, ' + json.dumps(table)[1:],
        "1 million numbers": json.dumps({"action": {name: [0.5] * 10**6 for name in ROW}}),
    }
    return made | {name: written(STATISTICS, value) for name, value in raw.items()}


def _files() -> dict[str, Change]:
    """name -> files that are missing, of another kind, or of another part."""
    found: dict[str, Change] = {
        "no spec": lambda here: (here / SPEC).unlink(),
        "no statistics": lambda here: (here / STATISTICS).unlink(),
        "a file of no part": lambda here: shutil.copy(
            here / "policy/backbone.safetensors", here / "policy/more.safetensors"
        ),
        "weights of a part that has none": lambda here: shutil.copy(
            here / "policy/backbone.safetensors", here / "policy/vae.safetensors"
        ),
        "weights of an adapter that is not there": lambda here: shutil.copy(
            here / "policy/backbone.safetensors", here / "policy/text_adapter.safetensors"
        ),
        "weights of a conditioner that is not there": lambda here: shutil.copy(
            here / "policy/backbone.safetensors", here / "policy/conditioner.safetensors"
        ),
        "a file of weights without tensors": written(
            "policy/latent_adapter.safetensors", safetensors({}, b"")
        ),
        "a folder": lambda here: _only(here, lambda place: place.mkdir()),
        "a file": lambda here: _only(here, lambda place: place.write_text("x")),
        "a pipe": lambda here: _only(here, os.mkfifo),
        "nothing": lambda here: _only(here, lambda place: None),
        "a link to itself": lambda here: _only(here, lambda place: place.symlink_to("policy")),
        "only a spec": lambda here: [
            (here / f"policy/{part}.safetensors").unlink() for part in WEIGHTS
        ],
    }
    for part in (*WEIGHTS, "spec", "statistics"):
        name = {"spec": SPEC, "statistics": STATISTICS}.get(part, f"policy/{part}.safetensors")
        other = (
            "policy/text_encoder.safetensors"
            if part == "backbone"
            else "policy/backbone.safetensors"
        )
        found |= {
            f"{part} is empty": written(name, b""),
            f"{part} is half": lambda here, name=name: _half(here / name),
            f"{part} is a folder": lambda here, name=name: remade(here / name, Path.mkdir),
            f"{part} is a pipe": lambda here, name=name: remade(here / name, os.mkfifo),
            f"{part} is zeros": lambda here, name=name: remade(
                here / name, lambda file: file.symlink_to("/dev/zero")
            ),
            f"{part} is a link to nothing": lambda here, name=name: remade(
                here / name, lambda file: file.symlink_to("nothing")
            ),
            f"{part} is another part's": lambda here, name=name, other=other: shutil.copy(
                here / other, here / name
            ),
            f"{part} is an image": lambda here, name=name: shutil.copy(
                here / "image.png", here / name
            ),
        }
    for part in WEIGHTS:
        name = f"policy/{part}.safetensors"
        found[f"{part} is missing"] = lambda here, name=name: (here / name).unlink()
        found[f"{part} has NaN"] = lambda here, name=name: _ended(here / name, b"\0\0\xc0\x7f")
        found[f"{part} lacks a tensor"] = lambda here, name=name: _less(here / name)
    return found


def _only(here: Path, write: Callable[[Path], Any]) -> None:
    shutil.rmtree(here / "policy")
    write(here / "policy")


def _half(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _ended(file: Path, end: bytes) -> None:
    file.write_bytes(file.read_bytes()[: -len(end)] + end)


def _less(file: Path) -> None:
    header, body = parts(file)
    last = max(header, key=lambda name: get(header, (name, "data_offsets"))[1])
    start = header.pop(last)["data_offsets"][0]
    file.write_bytes(safetensors(header, body[:start]))


def _paths() -> dict[str, str]:
    """What the spec of a saved policy may name outside its folder."""
    return {
        "outside": "../../outside/file",
        "absolute": "/etc/passwd",
        "home": "~/w.safetensors",
        "a device": "/dev/zero",
        "nothing": "nothing.safetensors",
        "empty": "",
        "hub": "hf:owner/name",
        "hub, with a path": "hf:../../x",
        "hub, odd": "hf:a/b/c/d@\x1b[31m",
        "a url": "https://example.com/w.safetensors",
        "NUL": "a\x00b",
        "long": "x" * 10_000,
        "a prefix": "#",
        "the folder": ".",
    }


def _right(material: Path, spec: Any, table: Any) -> dict[str, Change]:
    """name -> a folder that holds the same policy."""
    import yaml

    def dumped(**options: Any) -> Change:
        return written(SPEC, yaml.safe_dump(spec, **options))

    def linked(here: Path) -> None:
        for file in list((here / "policy").iterdir()):
            file.rename(here / f"blob-{file.name}")
            file.symlink_to(f"../blob-{file.name}")

    first = {
        "as it is": lambda here: None,
        "sorted": dumped(sort_keys=True),
        "flow": dumped(default_flow_style=True),
        "wide": dumped(width=10_000),
        "json": written(SPEC, json.dumps(spec)),
        "with comments": written(SPEC, f"# käse ☕\n{yaml.safe_dump(spec)}"),
        "no card": lambda here: (here / "policy/README.md").unlink(),
        "another card": written("policy/README.md", b"\xff\xfe\x00"),
        "notes": written("policy/notes.txt", b"mine"),
        "a hidden file": written("policy/.DS_Store", bytes(100)),
        "a subfolder": lambda here: (here / "policy/films").mkdir(),
        "links, as in a cache": linked,
        "the folder is a link": lambda here: [
            (here / "policy").rename(here / "elsewhere"),
            (here / "policy").symlink_to("elsewhere"),
        ],
        "statistics indented": written(STATISTICS, "{\n\n}\n"),
    }
    for section in spec:
        turned = {section: spec[section], **spec}
        first[f"{section} first"] = written(SPEC, yaml.safe_dump(turned, sort_keys=False))
    return first


def valid(material: Path, key: str = "") -> Case:
    """The policy that all are made from."""
    return case(material, "valid", lambda here: None, "accepted")


def case(material: Path, name: str, change: Change, expected: Expected = "refused") -> Case:
    """Act with the changed policy."""

    def make(here: Path) -> None:
        put(material, here, ["image.png", "policy"])
        change(here)

    return Case(name, make, ("act", "policy", *ACT), expected)

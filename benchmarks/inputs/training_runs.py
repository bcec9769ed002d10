"""Runs to go on with: their settings, records, states and logs changed; and right ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected, Outcome
from .changes import Change, damages, remade, written
from .material import TRAIN, put
from .mutate import documents, safetensors, text
from .verdict import answer, finite

NEWEST, OLDER = "run/checkpoints/step-000002", "run/checkpoints/step-000001"
SETTINGS, SPEC, RECORD, FILES = (
    "run/train.yaml",
    "run/spec.yaml",
    f"{NEWEST}/run.json",
    f"{NEWEST}/files.json",
)
STATE = f"{NEWEST}/state/shard-00001-model-00001-of-00001.safetensors"
KINDS = ("null", "text", "empty text", "list", "table", "true", "zero", "negative", "fraction")
KINDS += (
    "huge",
    "digits",
    "nan",
    "inf",
    "overflow",
    "deep",
    "NUL",
    "surrogate",
    "without",
    "twice",
)
GOES = ("train", "spec.toml", "--data", "set", "--out", "run", "--resume", *TRAIN, "--json")


def cases(material: Path) -> Iterator[Case]:
    """Records and settings by every value; files; and runs that are right."""
    import yaml

    record = json.loads((material / RECORD).read_text())
    for name, path, kind, made in documents(record, KINDS):
        expected: Expected = "same" if kind == "twice" else "refused"
        if path[0] in ("best", "noise") or (path[-1], kind) in LIKE:
            expected = "either" if kind in NUMBERS else expected
        yield case(material, f"run.json {name}", written(RECORD, made), expected)
    files = json.loads((material / FILES).read_text())
    for name, _, kind, made in documents(
        files, ("null", "text", "deep", "list", "twice", "without")
    ):
        expected = "same" if kind in ("without", "twice") else "refused"
        yield case(material, f"files.json {name}", written(FILES, made), expected)
    begun = yaml.safe_load((material / SETTINGS).read_text())
    for name, path, kind, made in documents(begun, KINDS):
        expected = "same" if "folder" in path or kind in SAME or path[-1] in FREE else "refused"
        yield case(material, f"train.yaml {name}", written(SETTINGS, made), expected)
    for file in (SETTINGS, SPEC, RECORD, FILES, STATE, "run/log.jsonl"):
        for name, change in _damaged(file).items():
            loose = file.endswith("log.jsonl") or (name == "missing" and file == FILES)
            yield case(material, f"{file[4:]} {name}", change, "either" if loose else "refused")
    for name, change in _folders().items():
        yield case(material, name, change, "either")
    for name, change in _states(material).items():
        yield case(material, f"state: {name}", change)
    for name, args in _settings().items():
        yield case(material, f"settings: {name}", lambda here: None, "refused", args)
    for name, (change, args) in _right(material, record, begun).items():
        yield case(material, f"valid: {name}", change, "accepted", args)


NUMBERS = ("zero", "negative", "fraction", "huge", "null", "without", "text")
SAME = ("twice", "true", "zero", "null", "fraction")
FREE = (
    "max_checkpoints",
    "log_every",
    "save_every",
    "validate_every",
    "validation_batches",
    "loggers",
)
FREE += ("imagine_every", "peak_flops", "measure_peak", "steps", "columns", "latents")
LIKE = {("position", "zero"), ("best_step", "null"), ("best", "null"), ("epoch", "huge")}


def _damaged(file: str) -> dict[str, Change]:
    """name -> a file of the run that is missing, damaged, or no file."""
    return damages(file) | {
        "in UTF-16": lambda here: (here / file).write_bytes("a: 1".encode("utf-16")),
        "deep": written(file, "[" * 100_000),
        "of aliases": written(file, "a: &a [1]\n" + "b: &b [*a, *a]\nc: [*b, *b]\n"),
        "a tag": written(file, "!!python/object/apply:os.system ['touch ../outside/ran']"),
    }


def _folders() -> dict[str, Change]:
    """name -> checkpoints that are missing, unfinished or named otherwise."""
    place = "run/checkpoints"

    def renamed(here: Path, name: str) -> None:
        (here / NEWEST).rename(here / place / name)

    def linked(here: Path, target: str) -> None:
        (here / place / "last").unlink()
        (here / place / "last").symlink_to(target)

    return {
        "no newest checkpoint": lambda here: shutil.rmtree(here / NEWEST),
        "no older checkpoint": lambda here: shutil.rmtree(here / OLDER),
        "no checkpoint": lambda here: [shutil.rmtree(here / p) for p in (NEWEST, OLDER)],
        "no folder of checkpoints": lambda here: shutil.rmtree(here / place),
        "checkpoints are a file": lambda here: [
            shutil.rmtree(here / place),
            (here / place).write_text("x"),
        ],
        "another number": lambda here: renamed(here, "step-000007"),
        "a number of 30 digits": lambda here: renamed(here, f"step-{'9' * 30}"),
        "no number": lambda here: renamed(here, "step-x"),
        "last leads out": lambda here: linked(here, "../../../outside"),
        "last leads to itself": lambda here: linked(here, "last"),
        "last leads to nothing": lambda here: linked(here, "step-000099"),
        "last is a text": lambda here: remade(
            here / place / "last", lambda f: f.write_text("../../../outside\n")
        ),
        "last is 10 MB": lambda here: remade(
            here / place / "last", lambda f: f.write_bytes(bytes(10**7))
        ),
        "last is a pipe": lambda here: remade(here / place / "last", os.mkfifo),
        "best is a pipe": lambda here: remade(here / place / "best", os.mkfifo),
        "leftovers": lambda here: (here / place / ".step-000003.part").mkdir(),
        "no state": lambda here: shutil.rmtree(here / f"{NEWEST}/state"),
        "no policy": lambda here: shutil.rmtree(here / f"{NEWEST}/policy"),
        "state of the older": lambda here: [
            shutil.rmtree(here / f"{NEWEST}/state"),
            shutil.copytree(here / f"{OLDER}/state", here / f"{NEWEST}/state"),
        ],
        "a file more": lambda here: (here / f"{NEWEST}/state/more").write_text("x"),
    }


def _states(material: Path) -> dict[str, Change]:
    """name -> tensors of the state that do not fit, or are not finite."""
    from .weights import parts

    header, body = parts(material / STATE)
    names = [name for name in header if name != "__metadata__"]
    first = names[0]
    nan = b"\0\0\xc0\x7f"
    other = {**header, first: {**header[first], "shape": [*header[first]["shape"], 1]}}
    renamed = {("x" + n if n == first else n): e for n, e in header.items()}
    return {
        "NaN": written(STATE, safetensors(header, nan * (len(body) // 4))),
        "another shape": written(STATE, safetensors(other, body)),
        "another name": written(STATE, safetensors(renamed, body)),
        "no tensors": written(STATE, safetensors({}, b"")),
        "the policy's": lambda here: shutil.copy(
            here / f"{NEWEST}/policy/backbone.safetensors", here / STATE
        ),
        "a bit": lambda here: _flip(here / STATE),
        "a pickle": written(
            STATE, b"\x80\x02cos\nsystem\nX\x13\x00\x00\x00touch ../outside/ran\x85R."
        ),
    }


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def _settings() -> dict[str, tuple[str, ...]]:
    """name -> `--train` that contradicts the run, or is no setting."""
    values = (
        "nan",
        "inf",
        "-1",
        "abc",
        "[]",
        "{}",
        "1" + "0" * 400,
        "[" * 3000,
        "\x1b[31m",
        "\udc80",
    )
    keys = (
        "lr",
        "seed",
        "min_lr_ratio",
        "max_grad_norm",
        "warmup_ratio",
        "betas",
        "ema",
        "parts.backbone.lr",
        "nothing",
    )
    found = {
        f"{key} {value[:12]!r}": ("--train", f"{key}={value}") for key in keys for value in values
    }
    return {name: args for name, args in found.items() if not name.startswith("ema '[]'")}


def _right(material: Path, record: Any, begun: Any) -> dict[str, tuple[Change, tuple[str, ...]]]:
    """name -> the same run, kept otherwise; and settings that change nothing."""
    import yaml

    def followed(here: Path) -> None:
        for name in ("last", "best"):
            link = here / "run" / "checkpoints" / name
            if link.is_symlink():
                target = link.resolve()
                link.unlink()
                shutil.copytree(target, link)

    changes: dict[str, Change] = {
        "as it is": lambda here: None,
        "run.json on one line": written(RECORD, json.dumps(record)),
        "train.yaml in JSON": written(SETTINGS, text(begun)),
        "train.yaml sorted": written(SETTINGS, yaml.safe_dump(begun, sort_keys=True)),
        "train.yaml with comments": written(SETTINGS, "# mine\n" + yaml.safe_dump(begun)),
        "no log": lambda here: (here / "run/log.jsonl").unlink(),
        "no loss.svg": lambda here: (here / "run/loss.svg").unlink(),
        "notes": written("run/notes.txt", b"mine"),
        "links followed": followed,
        "no links": lambda here: [
            (here / "run/checkpoints" / n).unlink(missing_ok=True) for n in ("last", "best")
        ],
        "no older checkpoint": lambda here: shutil.rmtree(here / OLDER),
    }
    for key in record:
        changes[f"run.json {key} first"] = written(RECORD, json.dumps({key: record[key], **record}))
    for key in begun["settings"]:
        settings = {key: begun["settings"][key], **begun["settings"]}
        changes[f"train.yaml {key} first"] = written(
            SETTINGS, text({**begun, "settings": settings})
        )
    return {name: (change, ()) for name, change in changes.items()}


def valid(material: Path, key: str = "") -> Case:
    """The run that all are made from."""
    return case(material, "valid", lambda here: None, "accepted")


def case(
    material: Path,
    name: str,
    change: Change,
    expected: Expected = "refused",
    args: tuple[str, ...] = (),
) -> Case:
    """Go on with the changed run for one more step."""

    def make(here: Path) -> None:
        put(material, here, ["spec.toml", "set", "run"])
        change(here)

    steps = ("--steps", "3")
    return Case(
        name, make, (*GOES, *args, *steps), expected, "", _went_on, ("run", "set/meta/wamkit")
    )


def _went_on(here: Path, outcome: Outcome) -> str | None:
    """What is wrong with a run that went on: it has a third step, all of it finite."""
    found = answer(outcome)
    if not isinstance(found, dict) or not finite(found):
        return f"an answer that is not finite: {str(found)[:100]}"
    if found.get("step") != 3:
        return f"ended at step {found.get('step')}"
    return None

"""`wamkit weights`: inspect weight files, and convert them to wamkit's layout."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.parts import ActionHeadConfig, Weighted
from ..config.registry import registry
from ..config.spec import override, parse_part
from ..errors import WamkitError
from ..policy.build import fetch_configs
from ._completion import complete_weighted
from ._folding import counted, unbroken
from ._options import Json, Overrides
from ._output import emit, note, say, show_table, spinner, table

if TYPE_CHECKING:
    from ..checkpoints.files import Entry

EXAMPLE = "wamkit weights inspect model.safetensors"


class Action(StrEnum):
    """What to do with a file."""

    inspect = "inspect"
    convert = "convert"


class Dtype(StrEnum):
    """What floats are written as."""

    stored = "stored"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def command(
    action: Annotated[Action, typer.Argument(help="Inspect a file, or convert it.")],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A file, or a folder with shards.")],
    part: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:NAME",
            help="The part that the weights belong to.",
            autocompletion=complete_weighted,
        ),
    ] = None,
    overrides: Overrides = None,
    like: Annotated[
        Path | None,
        typer.Option("--layout-from", metavar="FILE", help="File whose layout to write."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The safetensors file to write.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of floats in the new file.")] = Dtype.stored,
    prefix: Annotated[
        str | None, typer.Option(help="Prefix of the names of one of several sets in a file.")
    ] = None,
    json: Json = False,
) -> None:
    """Inspect a weight file, or convert it to another layout.

    `convert` needs --part and --out, and --set for the variant (`--set variant=...`). It writes the
    layout that parts are saved in, or that of the file --layout-from. Every tensor has to find its
    place, no value changes: each keeps its dtype, except scaled float8, which is
    multiplied out in float32. --dtype rounds all floats.
    """
    if prefix is not None:
        path = Path(f"{path}#{prefix}")
    if action is Action.inspect:
        _inspect(path, json)
        return
    if part is None or out is None:
        raise WamkitError(
            "convert needs to know whose weights these are, and where to write them",
            f"wamkit weights convert {path} --part backbone:NAME --set variant=... --out NEW",
        )
    _convert(path, part, overrides or [], like, out, dtype, json)


def _inspect(path: Path, json: bool) -> None:
    from ..checkpoints.files import find, headers
    from ..checkpoints.prefixes import select_prefix
    from ..files.locate import split_prefix

    files = find(path)
    entries = headers(files)
    if (prefix := split_prefix(path)[1]) is not None:
        entries = select_prefix(entries, prefix, str(path))
    report: dict[str, Any] = {
        "files": {str(file): file.stat().st_size for file in files},
        "tensors": len(entries),
        "parameters": sum(prod(entry.shape) for entry in entries.values()),
        "dtypes": dict(Counter(entry.dtype for entry in entries.values())),
        "layouts": layouts_of(entries),
        "names": {name: list(entry.shape) for name, entry in sorted(entries.items())},
    }
    if json:
        emit(report)
        return
    for name, size in report["files"].items():
        say(f"{unbroken(name)}: {size:,} bytes")
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in report["dtypes"].items())
    say(f"{report['tensors']} tensors ({dtypes}), {report['parameters']:,} values")
    say(f"layout: {'; '.join(report['layouts']) or 'none that an installed part knows'}")
    say()
    made = table("tensor", "shape", keep=("tensor", "shape"))
    for name, shape in report["names"].items():
        made.add_row(name, " x ".join(map(str, shape)) or "a number")
    show_table(made)


def layouts_of(entries: dict[str, Entry]) -> list[str]:
    """The installed parts, and which of their layouts, that know a name among `entries`."""
    import re

    from ..checkpoints.prefixes import common_prefixes, strip_wrappers

    found = []
    held = set(strip_wrappers(entries, "the file"))
    for prefix in ("", *common_prefixes(held)):
        names = [name.removeprefix(prefix) for name in held]
        behind = f", behind the prefix {prefix}" if prefix else ""
        for cls in registry():
            part: Any = parse_part(cls.kind, cls.model_fields["name"].default)
            for layout in part.layouts() if isinstance(part, Weighted) else ():
                if any(re.search(layout.detect_key, name) for name in names):
                    found.append(f"{cls.kind} {part.name}, {layout.name}{behind}")
        if found:
            break
    return found


def _convert(
    path: Path,
    label: str,
    overrides: list[str],
    like: Path | None,
    out: Path,
    dtype: Dtype,
    json: bool,
) -> None:
    import torch

    from ..checkpoints import safetensors as weights

    kind, _, name = label.partition(":")
    raw = override({"name": name, "weights": str(path)}, overrides)
    fetch_configs({kind: raw})
    part: Any = parse_part(kind, raw)
    if isinstance(part, ActionHeadConfig):
        raise WamkitError(
            "the sizes of an action head follow from a whole policy",
            "set action_head.weights in a spec and run `wamkit build SPEC --out FOLDER`",
        )
    if out.suffix != ".safetensors":
        raise WamkitError(f"{out} would not be a safetensors file", "let --out end in .safetensors")
    with spinner(f"converting {path}"):
        made = part.build()
        wanted = None if dtype is Dtype.stored else getattr(torch, dtype)
        state = weights.as_stored(made, wanted)
        if like is None:
            count = weights.write(state, out)
        else:
            count = weights.save_like(state, out, like, part.layouts())
    size = out.stat().st_size
    if json:
        emit({"out": str(out), "tensors": count, "bytes": size})
        return
    note("every tensor found its place")
    say(f"wrote {unbroken(out)}: {counted(count, 'tensor')}, {counted(size, 'byte')}")

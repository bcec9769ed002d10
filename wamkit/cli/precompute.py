"""`wamkit precompute`: embeddings of instructions and latents of images, written once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.runs import is_folder
from ..config.spec import PolicySpec, parse, read
from ..errors import WamkitError
from ..files.paths import read_text
from ..files.placeholders import refuse_placeholder
from ._completion import complete_folder
from ._folding import counted, unbroken
from ._options import Column, Device, Json, Overrides, Spec, Tolerance
from ._output import console, emit, say
from ._sources import resolve_source

EXAMPLE = "wamkit precompute text spec.toml --prompts prompts.txt --out text.safetensors"


class What(StrEnum):
    """What to compute ahead."""

    text = "text"
    latents = "latents"


class Number(StrEnum):
    """What latents are stored in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def command(
    what: Annotated[
        What, typer.Argument(help="Text embeddings of instructions, or latents of training clips.")
    ],
    spec: Spec,
    out: Annotated[
        Path,
        typer.Option(help="The safetensors file (text) or folder (latents) to write or extend."),
    ],
    prompts: Annotated[
        Path | None, typer.Option(help="A text file with one instruction a line (text).")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="LeRobot data set with clips (latents) or tasks (text).",
            autocompletion=complete_folder,
        ),
    ] = None,
    pickled: Annotated[
        Path | None,
        typer.Option(
            "--pickle",
            metavar="FILE",
            help="A pickled table of prompts and embeddings that an encoder like that of SPEC "
            "made, read as data and never run (text).",
        ),
    ] = None,
    overrides: Overrides = None,
    column: Column = None,
    stride: Annotated[int, typer.Option(min=1, help="Store every N-th clip (latents).")] = 1,
    dtype: Annotated[
        Number,
        typer.Option(help="bfloat16 for half the space, float32 for exact losses (latents)."),
    ] = Number.float32,
    batch: Annotated[int, typer.Option(min=1, help="Clips in one pass (latents).")] = 4,
    device: Device = "cpu",
    tolerance: Tolerance = None,
    json: Json = False,
) -> None:
    """Encode instructions or images once, so that it need not be done in training or use.

    `text` takes --prompts, the tasks of --data, or embeddings that others computed (--pickle); set
    text_encoder.embeddings_file to the file in the spec. `latents` takes --data; training then
    reads them in place of the images. A run that was interrupted resumes where it stopped.
    """
    spec = resolve_source(spec)
    policy = parse(read(spec, overrides or []), str(spec))
    if is_folder(spec):
        from ..policy.saving import with_files

        policy = with_files(policy, spec.absolute())
    if what is What.text:
        idle: dict[str, object] = {
            "--key-map": column,
            "--stride": stride != 1,
            "--dtype": dtype != "float32",
        }
        idle |= {"--batch": batch != 4, "--device": device != "cpu"}
        idle["--tolerance"] = tolerance is not None
        for name, is_given in idle.items():
            if is_given:
                raise WamkitError(f"{name} has no meaning for `precompute text`", "leave it out")
        if pickled is not None:
            if prompts is not None or data is not None:
                raise WamkitError("embeddings of a pickle and others", "leave --pickle out")
            _pickled(policy, pickled, out, json)
        else:
            _text(policy, _lines(prompts, data), out, json)
    elif data is None or prompts is not None or pickled is not None:
        raise WamkitError(
            "latents are of the images of a data set",
            "name it: --data DIR, and no --prompts or --pickle",
        )
    else:
        options: dict[str, Any] = {
            "stride": stride,
            "dtype": str(dtype),
            "batch": batch,
            "device": device,
        }
        options |= {} if tolerance is None else {"tolerance": tolerance}
        _latents(policy, data, out, column or [], options, json)


def _lines(prompts: Path | None, data: Path | None) -> list[str]:
    """The instructions of a text file, or of a data set."""
    if (prompts is None) == (data is None):
        raise WamkitError("whose instructions?", "name one: --prompts FILE, or --data DIR")
    if prompts is None:
        from ..data import LeRobotFolder

        assert data is not None
        return list(LeRobotFolder(data).tasks.values())
    try:
        lines = [line.strip() for line in read_text(prompts).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise WamkitError(f"{prompts} cannot be read: {problem}", "name a text file") from None
    if not lines:
        raise WamkitError(f"{prompts} holds no instruction", "write one a line")
    refuse_placeholder(prompts)
    return lines


def _text(spec: PolicySpec, lines: list[str], out: Path, json: bool) -> None:
    from rich.progress import Progress

    from ..checkpoints.random_weights import build_seeded
    from ..policy.precomputed_text import precompute

    encoder = build_seeded(spec, "text_encoder", spec.text_encoder.build, "cpu")
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("encoding", total=len(lines))
        done = precompute(
            spec.text_encoder, lines, out, lambda n: progress.advance(task, n), encoder=encoder
        )
    if json:
        emit({"out": str(out), "encoded": done, "prompts": len(set(lines))})
        return
    say(f"wrote {unbroken(out)}: {done} of {len(set(lines))} instructions were new")
    say(f'now set text_encoder.embeddings_file = "{out}"', whole=True)


def _pickled(spec: PolicySpec, file: Path, out: Path, json: bool) -> None:
    from ..checkpoints.pickle_values import embeddings
    from ..policy.precomputed_text import store

    found = embeddings(file)
    store(spec.text_encoder, found, out)
    if json:
        emit({"out": str(out), "encoded": len(found), "prompts": len(found)})
        return
    say(f"wrote {unbroken(out)}: {counted(len(found), 'instruction')} of {unbroken(file)}")
    say(f'now set text_encoder.embeddings_file = "{out}"', whole=True)


def _latents(
    spec: PolicySpec, data: Path, out: Path, column: list[str], options: dict[str, Any], json: bool
) -> None:
    from rich.progress import Progress

    from ..data import Columns, LeRobotFolder
    from ..data.encoding import precompute, sample_index

    recording, columns = LeRobotFolder(data), Columns.of(column)
    total = len(sample_index(recording, options["stride"]))
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("encoding", total=total)
        done = precompute(
            recording, spec, out, columns, advance=lambda n: progress.advance(task, n), **options
        )
    size = sum(file.stat().st_size for file in out.iterdir())
    if json:
        emit({"out": str(out), "encoded": done, "clips": total, "bytes": size})
        return
    say(f"wrote {unbroken(out)}: {done} of {total} clips were new, {size:,} bytes")
    say(f'now give the path to the samples: Samples(..., latents="{out}")', whole=True)

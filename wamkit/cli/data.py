"""`wamkit data`: show, check and describe a data set, or convert recordings into one."""

from __future__ import annotations

from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.spec import PolicySpec, parse, read
from ..errors import WamkitError
from ..files.durable import write_bytes, write_text
from ._completion import complete_folder
from ._convert import ImageFormat, convert_files
from ._env_options import EnvSettings
from ._folding import counted, duration, unbroken
from ._options import Column, Json, Overrides, Tolerance
from ._output import FOUND, console, emit, note, say, show_table, spinner, table

if TYPE_CHECKING:
    from ..data import Columns, LeRobotFolder

EXAMPLE = "wamkit data check recordings/cups --spec spec.toml"
NUMBERS = ("min", "q01", "mean", "q99", "max", "std")
STRIP, HEIGHT = 8, 96  # images in a strip, and their height in pixels


class Action(StrEnum):
    """What to do with a data set."""

    check = "check"
    show = "show"
    stats = "stats"
    convert = "convert"


TAKES = {
    Action.check: ("--spec", "--key-map", "--decode", "--tolerance"),
    Action.show: ("--out", "--tolerance"),
    Action.stats: ("--spec", "--key-map", "--out", "--tolerance"),
    Action.convert: ("--out", "--env-arg", "--image-format"),
}


def command(
    action: Annotated[
        Action,
        typer.Argument(help="Find faults, show, compute statistics, or convert a benchmark's own."),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A LeRobot data set, version 3 or 2.1; to convert, the name of an environment.",
            autocompletion=complete_folder,
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Demonstrations of that environment (convert)."),
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="Policy to train on it (check, stats).")] = None,
    overrides: Overrides = None,
    column: Column = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for a strip of images (show, .png) or statistics (stats, .json); folder of "
            "the data set to write (convert)."
        ),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image, which is slow (check).")
    ] = False,
    tolerance: Tolerance = None,
    env_settings: EnvSettings = None,
    images: ImageFormat = None,
    json: Json = False,
) -> None:
    """Check a data set (exit code 1 if it has faults), show it, or compute its statistics.

    With --spec, `check` also lists unmet needs of the policy, and `stats` treats
    relative actions as the policy learns them. `convert NAME FILE... --out DIR` writes a data set
    from demonstrations in the format of a benchmark.
    """
    from ..data import TOLERANCE, Columns, LeRobotFolder

    given: dict[str, object] = {
        "--spec": spec,
        "--key-map": column,
        "--out": out,
        "--decode": decode,
    }
    given |= {"--env-arg": env_settings, "--image-format": images}
    given["--tolerance"] = tolerance is not None
    allowed = TOLERANCE if tolerance is None else tolerance
    for name, value in given.items():
        if value and name not in TAKES[action]:
            raise WamkitError(f"{name} has no meaning for `data {action}`", "leave it out")
    if files and action is not Action.convert:
        raise WamkitError(f"`data {action}` takes one data set, not {files[0]} too", "leave it out")
    if spec is None and (overrides or (action is Action.check and column)):
        raise WamkitError(
            "--set and --key-map speak of a spec, and none is named", "add --spec FILE"
        )
    if action is Action.convert:
        convert_files(str(folder), files or [], out, env_settings or [], images or "video", json)
        return
    columns = Columns.of(column or ())
    policy = parse(read(spec, overrides or []), str(spec)) if spec is not None else None
    if action is Action.check:
        _check(folder, policy, columns, decode, allowed, json)
    elif action is Action.show:
        _show(LeRobotFolder(folder), out, allowed, json)
    else:
        _stats(LeRobotFolder(folder), policy, columns, out, allowed, json)


def _check(
    folder: Path,
    spec: PolicySpec | None,
    columns: Columns,
    decode: bool,
    tolerance: float,
    json: bool,
) -> None:
    from rich.progress import Progress

    from ..data import check

    besides: list[str] = []
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("checking", total=None)
        found = check(
            folder,
            spec,
            columns,
            decode=decode,
            tolerance=tolerance,
            advance=lambda n: progress.advance(task, n),
            note=besides.append,
        )
    besides += _remarks(folder, spec, columns)
    if json:
        rows = [vars(finding) for finding in found]
        report = {"folder": str(folder), "fits": not found, "findings": rows, "notes": besides}
        emit(report)
    elif not found:
        say(f"{unbroken(folder)} is whole.")
    else:
        say(f"{unbroken(folder)} has {len(found)} fault{'s' if len(found) > 1 else ''}:", "bold")
        for number, finding in enumerate(found, 1):
            lead = f"  {number}. "
            say(f"{lead}{finding}")
            if finding.hint:
                say(f"{' ' * len(lead)}hint: {finding.hint}")
    if not json:
        for line in besides:
            note(line)
    if found:
        raise typer.Exit(FOUND)


def _remarks(folder: Path, spec: PolicySpec | None, columns: Columns) -> list[str]:
    """Remarks on the normalization of the values that can be read."""
    from ..data import LeRobotFolder, scaling_notes

    if spec is None:
        return []
    try:
        return scaling_notes(LeRobotFolder(folder), spec, columns)
    except WamkitError:  # the faults of the data are reported already
        return []


def _show(recording: LeRobotFolder, out: Path | None, tolerance: float, json: bool) -> None:
    episodes, files = recording.episodes, recording.files()
    frames = sum(episode.length for episode in episodes)
    lengths = [episode.length for episode in episodes] or [0]
    size = sum(file.stat().st_size for file in files)
    report = {
        "folder": str(recording.folder),
        "version": recording.version,
        "robot": recording.info.get("robot_type"),
        "fps": recording.fps,
        "episodes": len(episodes),
        "frames": frames,
        "seconds": frames / recording.fps,
        "shortest": min(lengths),
        "longest": max(lengths),
        "files": len(files),
        "bytes": size,
        "tasks": list(recording.tasks.values()),
        "features": {
            name: {"dtype": feature.dtype, "shape": list(feature.shape), "names": feature.names}
            for name, feature in recording.features.items()
        },
    }
    if json:
        emit(report)
    else:
        name = unbroken(recording.folder)
        say(f"{name}: LeRobot {recording.version}, robot {report['robot']}", "bold")
        least, most = min(lengths), max(lengths)
        each = f"{least} frames" if least == most else f"{least} to {most} frames"
        say(
            f"{len(episodes)} episode{'s' * (len(episodes) != 1)} of {each}, {frames:,} "
            f"frames at {recording.fps:g} a second, {duration(frames / recording.fps)}"
        )
        say(f"{counted(len(files), 'file')}, {counted(size, 'byte')}")
        say()
        made = table("feature", "dtype", "shape", "names", keep=("feature", "dtype", "shape"))
        for name, feature in recording.features.items():
            shape = " x ".join(map(str, feature.shape))
            made.add_row(name, feature.dtype, shape, _names(feature.names))
        show_table(made)
        say()
        made = table("task", "instruction", right=("task",))
        for number, task in recording.tasks.items():
            made.add_row(str(number), task)
        show_table(made)
    if out is not None:
        _strip(recording, out, tolerance)
        note(f"wrote {out}")


def _names(names: object) -> str:
    return (
        ", ".join(map(str, names)) if isinstance(names, list) else "" if not names else str(names)
    )


def _strip(recording: LeRobotFolder, out: Path, tolerance: float) -> None:
    """A row of images for each camera, evenly from the first episode."""
    import numpy as np
    from PIL import Image

    from ..data.reader import FrameReader
    from ..files.pixels import is_deep

    if not recording.cameras or not recording.episodes:
        raise WamkitError(f"{recording.folder} has no camera", "leave --out away")
    episode = recording.episodes[0]
    frames = np.unique(np.linspace(0, episode.length - 1, STRIP).round().astype(int)).tolist()
    images, rows = FrameReader(recording, tolerance), []
    for camera in recording.cameras:
        found = images.read(episode, camera, frames)
        if is_deep(found):
            low, high = float(found.min()), float(found.max())
            note(f"{camera}: one channel; {low:g} is drawn black, {high:g} white")
            found = ((found - low) / ((high - low) or 1) * 255).astype(np.uint8).repeat(3, -1)
        tiles = [Image.fromarray(p) for p in found]
        width = max(1, round(tiles[0].width * HEIGHT / tiles[0].height))
        rows.append([image.resize((width, HEIGHT)) for image in tiles])
    whole = Image.new("RGB", (max(sum(p.width for p in row) for row in rows), HEIGHT * len(rows)))
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            whole.paste(image, (j * image.width, i * HEIGHT))
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind not in Image.SAVE:
        raise WamkitError(f"{out} is not the name of an image", "end it in .png")
    made = BytesIO()
    whole.save(made, format=kind)
    write_bytes(out, made.getvalue())


def _stats(
    recording: LeRobotFolder,
    spec: PolicySpec | None,
    columns: Columns,
    out: Path | None,
    tolerance: float,
    json: bool,
) -> None:
    from dataclasses import asdict

    from ..data import compute_statistics, scaling_notes
    from ..data.needs import expect_vectors
    from ..data.samples import expect_on_time
    from ..data.scaling import labels_of
    from ..files.strict_json import dumps

    if spec is not None:
        expect_vectors(recording, spec, columns)
    expect_on_time(recording, tolerance)

    with spinner("computing statistics"):
        found = compute_statistics(recording, spec, columns)
        remark_lines = scaling_notes(recording, spec, columns, statistics=found) if spec else []
    report = {name: asdict(value) for name, value in found.items()}
    if out is not None:
        write_text(out, dumps(report, indent=1) + "\n")
    if json:
        emit(report)
        for line in remark_lines:
            note(line)
        return
    made = table("number", *NUMBERS, right=NUMBERS, keep=("number",))
    for name, value in found.items():
        for i, label in enumerate(labels_of(name, recording, columns, spec)):
            cells = (f"{getattr(value, column)[i]:.6g}" for column in NUMBERS)
            made.add_row(f"{name} {label}", *cells)
    show_table(made)
    for line in remark_lines:
        note(line)
    if out is not None:
        note(f"wrote {out}")

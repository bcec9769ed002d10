"""`wamkit data convert`: demonstrations in a benchmark's own format become a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..config.spec import override, parse_part
from ..errors import WamkitError
from ._env_options import progress
from ._output import emit, note, say

ImageFormat = Annotated[
    Literal["video", "image"] | None,
    typer.Option(
        "--image-format",
        help="Store images in mp4 files, or losslessly in the parquet tables (convert).",
    ),
]


def convert_files(
    name: str,
    files: Sequence[Path],
    out: Path | None,
    settings: Sequence[str],
    image_format: Literal["video", "image"],
    json: bool,
) -> None:
    """Convert files of the environment `name` into a data set in `out`, and report on it."""
    from ..config.parts import EnvironmentConfig
    from ..simulate.convert import convert

    if out is None:
        raise WamkitError("no folder to write to", f"wamkit data convert {name} FILE... --out DIR")
    config = parse_part("environment", override({"name": name}, settings))
    assert isinstance(config, EnvironmentConfig)
    with progress("episodes", None) as (advance, _):
        done = convert(config, files, out, image_format, on_rollout=lambda _: advance())
    if json:
        emit(
            {
                "out": str(out),
                "environment": name,
                "files": [str(file) for file in files],
                "episodes": done.episodes,
                "frames": done.frames,
                "tasks": list(done.instructions),
            }
        )
        return
    count = f"{done.episodes} episode{'s' * (done.episodes != 1)}, {done.frames:,} frames"
    say(f"wrote {out}: {count}, {len(done.instructions)} instructions", whole=True)
    note(f"look at it: wamkit data show {out}")

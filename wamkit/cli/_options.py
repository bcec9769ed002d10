"""Arguments and options that several verbs take, with what a shell completes them to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..config.parts import ALL_KINDS
from ..config.registry import registry
from ..config.seeds import MOST
from ..config.trust import trusting_paths


def complete_kind(incomplete: str) -> list[str]:
    """The kinds that begin like this."""
    return [kind for kind in ALL_KINDS if kind.startswith(incomplete)]


def complete_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """The installed parts of the kind before it that begin like this."""
    kind = ctx.params.get("kind")
    known = registry().names(kind) if kind in ALL_KINDS else []
    return [name for name in known if name.startswith(incomplete)]


Kind = Annotated[str, typer.Argument(help="A kind of part.", autocompletion=complete_kind)]
Name = Annotated[str, typer.Argument(help="A part of that kind.", autocompletion=complete_name)]
Spec = Annotated[
    Path,
    typer.Argument(metavar="SPEC", help="A .toml, .yaml or .json spec, a saved policy or a run."),
]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC_OR_FOLDER", help="A spec, or the folder of a saved policy or a run."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one value, such as schedules.action.steps=5; may be repeated.",
    ),
]
Tiny = Annotated[bool, typer.Option("--tiny", help="The same composition at toy size.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Images = Annotated[
    list[str],
    typer.Option(
        "--image",
        metavar="[CAMERA=]FILE",
        help="What a camera sees (PNG, JPEG, WEBP, BMP, GIF or TIFF); once for each camera, "
        "several times for several moments.",
    ),
]
State = Annotated[
    str | None,
    typer.Option(help="What the robot feels: numbers with commas or spaces between them."),
]
Prompt = Annotated[str, typer.Option(help="Task instruction.")]
Seed = Annotated[int, typer.Option(min=0, max=MOST, help="The same seed gives the same answer.")]
Device = Annotated[str, typer.Option(help="Where to run, such as cpu or cuda.")]
Quantize = Annotated[
    Literal["none", "float8", "float8_weights", "int8", "int8_weights"],
    typer.Option(help="Large weights in 8 bits while the policy acts; nothing on disk changes."),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="How far the time of a frame or of its image may be off; 0.0001 if left out.",
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--key-map",
        metavar="NAME=KEY",
        help="Which key of a data set is a view, state or action; once for each, such as "
        "front=observation.images.top.",
    ),
]


def _allow(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.with_resource(trusting_paths())


def trust_paths() -> Any:
    """The option `--trust-paths`, for every verb that takes a saved policy."""

    def command(
        trust_paths: Annotated[
            bool,
            typer.Option(
                "--trust-paths",
                callback=_allow,
                help="Read the paths outside its folder that a saved policy names, and remember "
                "them.",
            ),
        ] = False,
    ) -> None: ...

    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    option = next(p for p in typer.main.get_command(alone).params if p.name == "trust_paths")
    option.expose_value = False
    return option

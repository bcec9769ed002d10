"""Arguments and options shared by several verbs, with shell completion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..config.parts import ALL_KINDS
from ..config.registry import registry
from ..config.seeds import MOST
from ..config.spec import SECTIONS
from ..config.trust import trusting_paths
from ._complete_keys import complete_setting, complete_training
from ._completion import complete_spec, filter_prefix
from ._folding import wide

SECTION_NAMES = ("spec", *SECTIONS, "train")
"""What `wamkit show` knows besides parts."""


def complete_kind(incomplete: str) -> list[str]:
    """The kinds that begin like this."""
    return filter_prefix(ALL_KINDS, incomplete)


def complete_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """The installed parts of the kind before it that begin like this."""
    kind = ctx.params.get("kind")
    known = registry().names(kind) if kind in ALL_KINDS else []
    return filter_prefix(known, incomplete)


def complete_kind_or_section(incomplete: str) -> list[str]:
    """The kinds, and the sections of a spec, that begin like this."""
    return filter_prefix([*ALL_KINDS, *SECTION_NAMES], incomplete)


KindOrSection = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND|SECTION|SPEC",
        help="A kind of part, and then its name; a section alone; or a spec, a policy or a run.",
        autocompletion=complete_kind_or_section,
    ),
]
Name = Annotated[
    str | None, typer.Argument(help="A part of that kind.", autocompletion=complete_name)
]
Spec = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC",
        help="A .toml, .yaml or .json spec, a saved policy or a run.",
        autocompletion=complete_spec,
    ),
]
Specs = Annotated[
    list[Path],
    typer.Argument(
        metavar="SPEC...",
        help="One or more: .toml, .yaml or .json, a saved policy or a run.",
        autocompletion=complete_spec,
    ),
]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC_OR_FOLDER",
        help="A spec, or the folder of a saved policy or a run.",
        autocompletion=complete_spec,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one value, such as schedules.action.steps=5; may be repeated.",
        autocompletion=complete_setting,
    ),
]
Tiny = Annotated[bool, typer.Option("--tiny", help="The same composition at toy size.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Images = Annotated[
    list[str],
    typer.Option(
        "--image",
        metavar="[CAMERA=]FILE",
        help="Camera image (PNG, JPEG, WEBP, BMP, GIF or TIFF); once for each camera, "
        "repeated for several frames.",
    ),
]
State = Annotated[
    str | None,
    typer.Option(help="Robot state in physical units, separated by commas or spaces."),
]
Prompt = Annotated[str, typer.Option(help="Task instruction.")]
Seed = Annotated[
    int, typer.Option(min=0, max=MOST, help="Random seed; the same seed gives the same result.")
]
Device = Annotated[str, typer.Option(help="Device, such as cpu or cuda.")]
Quantize = Annotated[
    Literal["none", "float8", "float8_weights", "int8", "int8_weights"],
    typer.Option(help="Quantize large weights to 8 bits at inference; files do not change."),
]
TrainConfigFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Training settings, .toml or .yaml.")
]
TrainSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--train",
        metavar="KEY=VALUE",
        help="Set one of them, such as ema=0.999 or parts.backbone.freeze=true.",
        autocompletion=complete_training,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Tolerance for the time of a frame or its image; 0.0001 by default.",
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--key-map",
        metavar="NAME=KEY",
        help="Map a view, state or action to a key of the data set; may be repeated, such as "
        "front=observation.images.top.",
    ),
]


def _allow(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.with_resource(trusting_paths())


def _unfold(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.with_resource(wide())


def trust_paths() -> Any:
    """The option `--trust-paths`, for every verb that takes a saved policy."""
    about = "Read the paths outside its folder that a saved policy names, and remember them."
    return _flag("trust_paths", _allow, about)


def wide_tables() -> Any:
    """The option `--wide`, for every verb that prints tables."""
    return _flag("wide", _unfold, "Print tables as wide as they are; else they fit the terminal.")


def _flag(name: str, callback: Callable[[typer.Context, bool], None], about: str) -> Any:
    """An option that calls `callback` and is no argument of the command."""

    def command(wanted: bool = False) -> None: ...

    option = typer.Option(f"--{name.replace('_', '-')}", callback=callback, help=about)
    command.__annotations__["wanted"] = Annotated[bool, option]
    probe = typer.Typer(add_completion=False)
    probe.command()(command)
    found = next(p for p in typer.main.get_command(probe).params if p.name == "wanted")
    found.name, found.expose_value = name, False
    return found

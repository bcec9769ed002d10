"""`wamkit compose`: a whole spec from some of its parts, each choice with its reason."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...errors import WamkitError
from .._completion import (
    complete_folder,
    complete_layout,
    complete_spec,
    complete_swap,
    part_completion,
)
from .._options import Column, Json, Overrides
from .asked import Asked
from .report import expect_free, finish

EXAMPLE = "wamkit compose --backbone wan --head mot --views front=224x224 --out my.toml"
PRINTS_TABLES = True  # in `report`


def _part(kind: str, what: str) -> typer.models.OptionInfo:
    completion = part_completion(kind)
    option: typer.models.OptionInfo = typer.Option(
        metavar="NAME[:VARIANT]", help=what, autocompletion=completion
    )
    return option


def command(
    backbone: Annotated[str | None, _part("backbone", "The video or image model.")] = None,
    vae: Annotated[str | None, _part("vae", "What turns images into latents.")] = None,
    text: Annotated[str | None, _part("text_encoder", "What encodes the prompt.")] = None,
    head: Annotated[str | None, _part("action_head", "What predicts actions.")] = None,
    paradigm: Annotated[
        str | None, _part("paradigm", "How it is trained, and what runs when it acts.")
    ] = None,
    views: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW[=HxW],...", help="Cameras and their sizes: front=224x224,wrist=224x224."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="How views share a canvas, such as side_by_side.", autocompletion=complete_layout
        ),
    ] = None,
    actions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:SIZE[:KIND][:NORM],...",
            help="Values of an action: pose:6:delta,gripper:1 or joints:14:quantile.",
        ),
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="SIZE[:NORM]", help="Values of the robot's state.")
    ] = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="Actions in a chunk.")] = None,
    hz: Annotated[float | None, typer.Option(help="Actions a second.")] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="SPEC", help="Begin from this one.", autocompletion=complete_spec),
    ] = None,
    swap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=NAME",
            help="Exchange a part of it, such as backbone=cosmos; may be repeated.",
            autocompletion=complete_swap,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Take views, sizes, names and rate from a LeRobot data set.",
            autocompletion=complete_folder,
        ),
    ] = None,
    column: Column = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The .toml file to write.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    json: Json = False,
) -> None:
    """Write a spec around the parts you name; the rest is chosen so that it fits.

    What is chosen is explained, a line each. Parts that do not fit are refused with every conflict
    and what fixes it (exit code 1). Without --out the spec is printed. On a terminal, without any
    option, it asks question by question.
    """
    named = {"backbone": backbone, "vae": vae, "text": text, "head": head, "paradigm": paradigm}
    asked = Asked(
        parts={flag: word for flag, word in named.items() if word is not None},
        views=tuple(views or ()),
        layout=layout,
        actions=tuple(actions or ()),
        state=state,
        chunk=chunk,
        hz=hz,
        like=like,
        swap=tuple(swap or ()),
        data=data,
        key_map=tuple(column or ()),
        settings=tuple(overrides or ()),
        out=out,
        force=force,
    )
    if asked.is_empty:
        if json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise WamkitError(
                "nothing to compose from: no part, no robot, and no terminal to ask at",
                f"name what you have, such as `{EXAMPLE}`; the rest is chosen",
            )
        from .wizard import ask

        asked = ask(asked)
    expect_free(asked)
    finish(asked, json=json)

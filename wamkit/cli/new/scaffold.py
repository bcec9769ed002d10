"""Starts a plugin of one's own: a whole project, tested and ready to install, from templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ...config.registry import registry
from ...errors import WamkitError, did_you_mean
from ...files.durable import (
    as_not_written,
    make_folder,
    recover,
    replacing_folder,
    sweep,
    write_text,
)

SUFFIXES = {"backbone": "Backbone", "action_head": "Head", "paradigm": "Paradigm"}
"""The kinds there are templates for, and how the configuration class of each ends."""
LONGEST = 32  # letters of a name; derived names must fit into a line
TEMPLATES = Path(__file__).parent / "templates"
EXAMPLES = Path(__file__).parents[3] / "examples"  # the backbone's, which wheels hold as a template


def names(kind: str, name: str) -> tuple[str, str, str]:
    """Names of a part: in specs, in titles, and of its configuration class.

    The class ends in its kind (`my_robot` gives MyRobotBackbone), so that no name can hide one that
    the file imports.
    """
    camel = "".join(word.capitalize() for word in name.split("_"))
    suffix = "" if camel.endswith(SUFFIXES[kind]) else SUFFIXES[kind]
    return name, name.replace("_", "-"), camel + suffix


def render(kind: str, name: str) -> dict[str, str]:
    """Every file of a new project: relative path -> text, sorted by path.

    It is the project of a part called `my_KIND`, under another name.
    """
    shipped, old = TEMPLATES / kind, f"my_{kind}"
    home = shipped if shipped.is_dir() else EXAMPLES / old
    files = {}
    for file in home.rglob("*"):
        path = file.relative_to(home).as_posix()
        if file.is_dir() or re.search(r"(^|/)\.|__pycache__|\.egg-info", path):
            continue  # what tools leave in a checkout
        text = file.read_text(encoding="utf-8")
        for before, after in zip(names(kind, old), names(kind, name), strict=True):
            text = text.replace(before, after)
        files[path.removesuffix(".in").replace(old, name)] = text
    return dict(sorted(files.items()))


def refuse(kind: str, name: str) -> None:
    """Raise WamkitError if there is no such kind, or the name cannot be that of a new part."""
    if kind not in SUFFIXES:
        raise WamkitError(
            f"there is no template for {kind!r}; there is one for {', '.join(SUFFIXES)}",
            did_you_mean(kind, list(SUFFIXES), "choose one of the three"),
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > LONGEST:
        better = _snake(name)
        raise WamkitError(
            f"{name!r} cannot name a part: a name is lower-case words of letters and digits, "
            f"joined by single underscores, {LONGEST} characters at most",
            f"did you mean {better!r}?" if better else f"for example my_{kind}",
        )
    if owner := registry().plugin_of.get((kind, name)):
        raise WamkitError(
            f"there is a {kind} called {name!r} already, from {owner}",
            f"choose another name, or look at that one: wamkit show {kind} {name}",
        )
    package = f"wamkit_{name}"
    if find_spec(package) is not None:
        raise WamkitError(
            f"there is a package called {package} already, for another part",
            f"choose another name, for example {name}_{SUFFIXES[kind].lower()}",
        )


def _snake(name: str) -> str:
    """The nearest name that can be used; empty if there is none."""
    snake_case = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    snake_case = re.sub(r"[^a-z0-9]+", "_", snake_case).strip("_")
    return snake_case if snake_case[:1].isalpha() and len(snake_case) <= LONGEST else ""


def write(kind: str, name: str, folder: Path) -> list[str]:
    """Write a new project to `folder` atomically, and return its files.

    Raises WamkitError if the kind or the name will not do, or `folder` is not empty.
    """
    refuse(kind, name)
    files, goal = render(kind, name), recover(folder.resolve())
    for place in {goal, *((goal / path).parent for path in files)}:
        sweep(place)
    if goal.exists() and not _is_begun(goal, files):
        raise WamkitError(
            f"{folder} exists and is not an empty folder", "choose another one with --out FOLDER"
        )
    if goal.exists():  # it stays the folder it is, since a shell may stand in it
        for path, text in files.items():
            with as_not_written(goal):
                make_folder((goal / path).parent)
            write_text(goal / path, text)
        return list(files)
    with replacing_folder(goal) as part:
        for path, text in files.items():
            file = part / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return list(files)


def _is_begun(folder: Path, files: Mapping[str, str]) -> bool:
    """True if a folder holds only files of the template, as after a crash."""
    if not folder.is_dir():
        return False
    there = [path for path in folder.rglob("*") if not path.is_dir()]
    return len(there) < len(files) and all(
        path.read_bytes() == files.get(path.relative_to(folder).as_posix(), "").encode()
        for path in there
    )

"""Questions at a terminal whose answers are a command line of `wamkit compose`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ...config.composing import compose_spec
from ...config.composing.candidates import variants_of
from ...config.registry import registry
from ...errors import WamkitError
from ...files.install import install_hint
from .._output import say, spinner
from .asked import Asked
from .offers import list_offers, sum_line, with_part
from .report import expect_free
from .short_forms import FLAGS, groups_of, state_of, views_of


def ask(asked: Asked) -> Asked:
    """Ask for parts, the robot and the file. Only what fits the answers so far can be chosen.

    Raises WamkitError if questionary is not installed; KeyboardInterrupt on Ctrl-C.
    """
    prompts = _questionary()
    for flag, kind in FLAGS.items():
        asked = _ask_part(prompts, asked, flag, kind)
        say(sum_line(compose_spec(asked.request())))
    asked = _ask_robot(prompts, asked)
    say(sum_line(compose_spec(asked.request())))
    if asked.out is None:
        check = _valid(lambda word: expect_free(Asked(out=Path(word))))
        name = prompts.text("File to write:", default="my.toml", validate=check).unsafe_ask()
        asked = replace(asked, out=Path(name))
    say("\nThe same without questions:", "bold")
    say(asked.command(), whole=True)
    say()
    return asked


def _questionary() -> ModuleType:
    try:
        import questionary
    except ImportError:
        raise WamkitError(
            "questions need questionary, which is not installed",
            f"{install_hint('wizard')}, or name parts: wamkit compose --help",
        ) from None
    return questionary


def _ask_part(prompts: ModuleType, asked: Asked, flag: str, kind: str) -> Asked:
    """Ask for the part of a kind, and for its variant if it has several."""
    first = str(compose_spec(asked.request()).raw[kind]["name"])
    names = sorted(registry().names(kind), key=lambda name: name != first)
    word = _select(prompts, asked, flag, names, f"{kind}:")
    variants = variants_of(registry().get(kind, word))
    if kind == "backbone" and len(variants) > 1:
        labels = [f"{word}:{variant}" for variant in variants]
        word = _select(prompts, asked, flag, labels, f"{kind} variant:")
    return with_part(asked, flag, word)


def _select(prompts: ModuleType, asked: Asked, flag: str, labels: list[str], question: str) -> str:
    """Ask for one of several answers; what does not fit is listed with the reason."""
    with spinner("trying what fits"):
        offers = list_offers(asked, flag, labels)
    if offers[0].why_not:
        raise WamkitError(
            f"nothing fits here: {offers[0].why_not}", "begin again with other answers"
        )
    chosen: str = prompts.select(
        question,
        [prompts.Choice(o.title, value=o.word, disabled=o.why_not) for o in offers],
        use_search_filter=True,
        use_jk_keys=False,
        instruction="(arrow keys; type to filter)",
    ).unsafe_ask()
    return chosen


def _ask_robot(prompts: ModuleType, asked: Asked) -> Asked:
    """Ask for a data set, or else for views, actions, state and rate."""
    check = _valid(lambda word: word and replace(asked, data=word).request())
    question = prompts.text(
        "LeRobot data set to take the robot from (empty for none):", validate=check
    )
    if folder := question.unsafe_ask().strip():
        return replace(asked, data=folder)
    raw = compose_spec(asked.request()).raw
    actions, views = raw["actions"], raw["cameras"]["views"]

    def text(question: str, default: str, check: Callable[[str], Any]) -> str:
        answer = prompts.text(question, default=default, validate=_valid(check)).unsafe_ask()
        return str(answer).strip()

    sizes = ",".join(f"{view['name']}={'x'.join(map(str, view['size']))}" for view in views)
    groups = ",".join(
        ":".join(str(group[key]) for key in ("name", "size", "kind") if key in group)
        for group in actions["groups"]
    )
    answers = {
        "views": (text("Cameras (NAME=HEIGHTxWIDTH,...):", sizes, lambda w: views_of([w])),),
        "actions": (text("Actions (NAME:SIZE,...):", groups, lambda w: groups_of([w])),),
        "state": text("Values of the state (0 for none):", "0", state_of),
        "hz": float(text("Actions a second:", f"{actions['control_hz']:g}", _positive)),
    }
    asked = replace(asked, **answers)  # type: ignore[arg-type]
    chunk = str(compose_spec(asked.request()).raw["actions"]["chunk_size"])
    return replace(
        asked, chunk=int(text("Actions in a chunk:", chunk, lambda w: _positive(w, int)))
    )


def _valid(check: Callable[[str], Any]) -> Callable[[str], bool | str]:
    """`check` as questionary wants it: True, or what is wrong."""

    def validate(word: str) -> bool | str:
        try:
            check(word)
        except (WamkitError, ValueError) as error:
            return getattr(error, "what", str(error))
        return True

    return validate


def _positive(word: str, kind: Callable[[str], float] = float) -> None:
    if not kind(word) > 0:
        raise ValueError("a number above 0")

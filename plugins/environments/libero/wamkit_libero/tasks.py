"""Suites and tasks of LIBERO and LIBERO-PRO: names, instructions and steps of the protocol."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files

from wamkit.errors import did_you_mean

from .refused import REFUSED

_TEXT = (files(__package__) / "suites.toml").read_text(encoding="utf-8")
_READ = tomllib.loads(_TEXT)
_OWN: dict[str, list[str]] = _READ.pop("instructions")
_PERTURBED = ("spatial", "object", "goal", "10")
_PERTURBATIONS = ("lan", "object", "swap", "task")

NAMES: Mapping[str, tuple[str, ...]] = {
    **{suite: tuple(names) for suite, names in _READ.items()},
    **{
        f"libero_{base}_{kind}": tuple(_READ[f"libero_{base}"])
        for base in _PERTURBED
        for kind in _PERTURBATIONS
    },
}
"""Suite -> names of its tasks, which are names of files in the package."""
SUITES: Mapping[str, tuple[str, ...]] = {
    suite: tuple(f"{suite}/{index}" for index in range(len(names)))
    for suite, names in NAMES.items()
}
"""Suite -> its tasks as SUITE/INDEX, in the order of the benchmark."""
MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Actions of an episode, a little more than the longest demonstration (OpenVLA, openpi)."""


def base_suite(suite: str) -> str:
    """Return the standard suite whose tasks a suite of LIBERO-PRO perturbs, or the suite itself."""
    return "_".join(suite.split("_")[:2])


def find_task(text: str) -> str:
    """Return SUITE/INDEX of a task given as SUITE/INDEX, SUITE/NAME or, in a standard suite, NAME.

    Raises ValueError if there is no such suite or task.
    """
    suite, slash, task = text.partition("/")
    if not slash:
        found = [s for s in _READ if text in NAMES[s]]
        if found:
            return f"{found[0]}/{NAMES[found[0]].index(text)}"
        if text in NAMES:
            raise ValueError(f"{text} is a suite; its tasks are {text}/0 to {SUITES[text][-1]}")
        if text in REFUSED:
            raise ValueError(f"suite {text} cannot be played: {REFUSED[text]}")
        known = [name for names in _READ.values() for name in names]
        hint = did_you_mean(text, known, "write SUITE/INDEX, such as libero_object/0")
        raise ValueError(f"LIBERO has no task {text!r}; {hint}")
    if suite in REFUSED:
        raise ValueError(
            f"suite {suite} cannot be played: {REFUSED[suite]}; the suites are {', '.join(NAMES)}"
        )
    if suite not in NAMES:
        hint = did_you_mean(suite, list(NAMES), f"the suites are {', '.join(NAMES)}")
        raise ValueError(f"LIBERO has no suite {suite!r}; {hint}")
    names = NAMES[suite]
    if task in names:
        return f"{suite}/{names.index(task)}"
    if re.fullmatch(r"[0-9]{1,9}", task):
        if int(task) < len(names):
            return f"{suite}/{int(task)}"
        raise ValueError(f"{suite} has {len(names)} tasks: {suite}/0 to {SUITES[suite][-1]}")
    hint = did_you_mean(task, list(names), f"the tasks are {suite}/0 to {SUITES[suite][-1]}")
    raise ValueError(f"{suite} has no task {task!r}; {hint}")


def _write_instructions() -> dict[str, str]:
    """SUITE/INDEX -> instruction: the suite's own, or the name of the task in plain letters."""
    written: dict[str, str] = {}
    for suite, names in NAMES.items():
        own = _OWN.get(suite) or [
            re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ") for name in names
        ]
        written.update(zip(SUITES[suite], own, strict=True))
    return written


INSTRUCTIONS: Mapping[str, str] = _write_instructions()

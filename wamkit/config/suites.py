"""Benchmark suites: the tasks of an environment that are evaluated together, by one protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import WamkitError, did_you_mean
from ..files import strict_json
from .registry import registry

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True)
class Suite:
    """One suite of one environment."""

    name: str
    environment: str
    """Its name among the installed environments."""
    subjects: tuple[str, ...]
    """Its tasks as suffixes of the environment; "" if the environment has one task."""
    settings: tuple[str, ...]
    """`KEY=VALUE` overrides of the environment: the published protocol."""

    def label(self, subject: str) -> str:
        """One task as `--env` names it."""
        return f"{self.environment}:{subject}" if subject else self.environment


def suites() -> dict[str, Suite]:
    """Every suite of the installed environments by its name."""
    found, known = dict[str, Suite](), registry()
    for environment in known.names("environment"):
        cls: Any = known.get("environment", environment)
        for name, subjects in cls.suites.items():
            settings = cls.suite_settings.get(name, {})
            typed = tuple(f"{key}={strict_json.dumps(value)}" for key, value in settings.items())
            found.setdefault(name, Suite(name, environment, tuple(subjects), typed))
    return found


def find_suite(name: str) -> Suite:
    """The suite of that name.

    Raises WamkitError with the nearest name if there is none, or with the reason if an environment
    refuses it.
    """
    found = suites()
    if name not in found:
        if (refusal := _refusal(name)) is not None:
            environment, why = refusal
            raise WamkitError(
                f"suite {name} of {environment} cannot be played: {why}",
                f"wamkit show environment {environment} lists those that can",
            )
        listed = ", ".join(found) or "none"
        raise WamkitError(
            f"there is no suite {name!r}; the suites are {listed}",
            did_you_mean(name, list(found), "wamkit list environment shows what is installed"),
        )
    return found[name]


def _refusal(name: str) -> tuple[str, str] | None:
    """The environment that refuses a suite of that name, and why; None if none does."""
    known = registry()
    for environment in known.names("environment"):
        cls: Any = known.get("environment", environment)
        if (why := cls.refused_suites.get(name)) is not None:
            return environment, why
    return None


def choose_tasks(suite: Suite, wanted: Iterable[str]) -> list[int]:
    """Indices of the tasks that `wanted` names: names, numbers from 0, or ranges such as 2-5.

    All tasks if nothing is wanted; each once, in the order of the suite. Raises WamkitError.
    """
    named = [word.strip() for text in wanted for word in text.split(",") if word.strip()]
    if not named:
        return list(range(len(suite.subjects)))
    return sorted({index for word in named for index in _indices(suite, word)})


def _indices(suite: Suite, word: str) -> Sequence[int]:
    count = len(suite.subjects)
    if word in suite.subjects:
        return [suite.subjects.index(word)]
    if not (numbers := _RANGE.fullmatch(word)):
        raise WamkitError(
            f"suite {suite.name} has no task {word!r}",
            did_you_mean(
                word,
                suite.subjects,
                f"name a task or its number, 0 to {count - 1}: "
                f"wamkit show environment {suite.environment}",
            ),
        )
    first = int(numbers[1])
    last = int(numbers[2] or first)
    if first > last or last >= count:
        raise WamkitError(
            f"--tasks {word}: suite {suite.name} has {count} tasks",
            f"choose numbers from 0 to {count - 1}",
        )
    return range(first, last + 1)

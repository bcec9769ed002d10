"""A whole life of a small policy on one page: demonstrations, training, evaluation, a report.

`stages` does the work and can be interrupted anywhere, `page` writes what came of it as one HTML
file, `drawing` makes the pictures in it.
"""

from __future__ import annotations

from .page import write
from .stages import (
    Found,
    Settings,
    Way,
    begin,
    demonstrations,
    expect_fit,
    judged,
    opened,
    played,
    spec_of,
)

__all__ = [
    "Found",
    "Settings",
    "Way",
    "begin",
    "demonstrations",
    "expect_fit",
    "judged",
    "opened",
    "played",
    "spec_of",
    "write",
]

"""A whole spec from some of its parts: the rest is chosen so that it fits, each with a reason.

`compose_spec` is the entry. It has no rules of its own about what fits: it asks
`wamkit.config.check`, and does what the hints of conflicts say where that is left open.
"""

from __future__ import annotations

from .composition import Composition, compose_spec
from .draft import Choice, Draft, Dropped
from .remedies import Remedy, find_remedy
from .request import Request

__all__ = [
    "Choice",
    "Composition",
    "Draft",
    "Dropped",
    "Remedy",
    "Request",
    "compose_spec",
    "find_remedy",
]

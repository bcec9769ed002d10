"""How fast a policy is: each stage of a chunk, against what the device could do at best."""

from __future__ import annotations

from .machine import Roof, busy, machine, roof
from .measure import Report, Row, measure
from .versus import differences, versus

__all__ = [
    "Report",
    "Roof",
    "Row",
    "busy",
    "differences",
    "machine",
    "measure",
    "roof",
    "versus",
]

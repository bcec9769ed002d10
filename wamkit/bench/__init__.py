"""How fast a policy is: each stage of a chunk, against what the device could do at best."""

from __future__ import annotations

from .compare import compare_reports, differences
from .machine import Roof, busy, machine, roof
from .measure import Report, Row, measure

__all__ = [
    "Report",
    "Roof",
    "Row",
    "busy",
    "compare_reports",
    "differences",
    "machine",
    "measure",
    "roof",
]

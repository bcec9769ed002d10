"""How fast a policy is: each stage of a chunk, against what the device could do at best."""

from __future__ import annotations

from .compare import compare_reports, differences
from .machine import Roofline, load_warning, machine, measure_roofline
from .measure import Report, Row, measure

__all__ = [
    "Report",
    "Roofline",
    "Row",
    "compare_reports",
    "differences",
    "load_warning",
    "machine",
    "measure",
    "measure_roofline",
]

"""Benchmarks of a policy: the latency of each stage of a chunk, compared with the roofline."""

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

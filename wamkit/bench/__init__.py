"""How fast a policy is: each stage of a chunk, against what the device could do at best."""

from __future__ import annotations

from .machine import Roof, machine, roof
from .measure import Report, Row, measure
from .versus import versus

__all__ = ["Report", "Roof", "Row", "machine", "measure", "roof", "versus"]

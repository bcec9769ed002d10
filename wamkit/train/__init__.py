"""Training: one loop of plain torch, on one machine or many, that resumes exactly.

`TrainConfig` says how, `train` does it, `plan` says beforehand what it will cost.
"""

from __future__ import annotations

from .config import TrainConfig, read_config

__all__ = ["TrainConfig", "read_config"]

"""Training: one loop of plain torch, on one machine or many, that resumes exactly.

`TrainConfig` says how, `trainer.train` does it, `plan.plan` says beforehand what it will take.
"""

from __future__ import annotations

from .config import TrainConfig, read_config

__all__ = ["TrainConfig", "read_config"]

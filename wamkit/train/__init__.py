"""Training: one loop of plain torch, on one machine or many, that resumes exactly.

`TrainConfig` holds the settings, `trainer.train` trains, `plan.plan` estimates memory and time.
"""

from __future__ import annotations

from .config import TrainConfig, read_config

__all__ = ["TrainConfig", "read_config"]

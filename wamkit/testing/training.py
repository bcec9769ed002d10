"""Fixtures for tests of training: a small data set, a short run, and its files.

spec = compose(MyHead())
data = recordings(tmp_path / "data", spec)
short_run(Policy.from_spec(spec), data, tmp_path / "run", precision="bfloat16")
losses = [line["loss"] for line in logged(tmp_path / "run") if "loss" in line]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..config.spec import PolicySpec
from ..data import Columns
from ..policy.policy import Policy
from ..train.checkpoints import LOG
from ..train.config import TrainConfig
from ..train.logs import read
from ..train.trainer import Data, OnStep, Summary, train
from .dataset import record

__all__ = ["read_log", "read_saved_state", "recordings", "same", "short_run", "state"]

SHORT: Mapping[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "lr": 3e-3,
    "val_fraction": 0.3,
    "validation_batches": 1,
    "log_every": 1,
    "save_every": 2,
}


def recordings(folder: Path, spec: PolicySpec) -> Path:
    """Three episodes of ten small images that fit a spec; see `wamkit.testing.dataset`."""
    return record(folder, spec, episodes=3, frames=10, size=(16, 16), image_format="image")


def short_run(
    policy: Policy,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    on_step: OnStep | None = None,
    **settings: Any,
) -> Summary:
    """Four updates of four samples, saved after two, or with other `settings` of a `TrainConfig`.

    Raises WamkitError as `wamkit.train.trainer.train` does.
    """
    config = TrainConfig.model_validate({**SHORT, **settings})
    return train(policy, Data(data, Columns()), out, config, resume=resume, on_step=on_step)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, oldest first."""
    return read(run / LOG)


def read_saved_state(run: Path, name: str = "last") -> dict[str, Tensor]:
    """The weights of the policy in a checkpoint of a run, by name."""
    return Policy.load(run / "checkpoints" / name / "policy").state_dict()


def state(run: Path, name: str = "last") -> dict[str, Tensor]:
    """State that a run resumes from: weights, their average and moments, by name."""
    found: dict[str, Tensor] = {}
    for file in (run / "checkpoints" / name / "state").iterdir():
        found |= load_file(file)
    return found


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """True if both hold the same names and equal values."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

"""Settings of a run that change what an ImageWAM computes are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from wamkit_imagewam.settings import from_settings, lora_scale
from wamkit_imagewam.specs import LIBERO

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.errors import WamkitError


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("model._target_", "imagewam.runtime.create_imagewam_noise_idm", "model._target_ = "),
        ("data.train.endpoint_frames_only", False, "endpoint_frames_only = False, expected True"),
        ("data.train.global_sample_stride", 2, "global_sample_stride = 2, expected 1"),
        ("model.video_scheduler.num_train_timesteps", 500, "num_train_timesteps = 500"),
        ("mixed_precision", "fp16", "mixed_precision = 'fp16'"),
        ("model.flux2_lora_config.rank", 0, "rank = 0, expected a whole number from 1 on"),
        ("data.train.num_frames", 1, "num_frames = 1, expected a whole number from 2 on"),
    ],
)
def test_a_setting_with_another_value_than_here_is_refused_by_name(
    name: str, value: Any, match: str
) -> None:
    settings: dict[str, Any] = {"model": {"flux2_lora_config": {"alpha": 2.0}}}
    *parents, last = name.split(".")
    table = settings
    for key in parents:
        table = table.setdefault(key, {})
    table[last] = value
    with pytest.raises(WamkitError, match=match):
        from_settings(HydraConfig(settings), LIBERO)
        lora_scale(HydraConfig(settings))

"""Settings of a run that change how a Fast-WAM acts or learns are read, or refused by name."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import released

from wamkit.errors import WamkitError
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.testing.imported import expect_clear_errors


def plan_of(folder: Path, name: str, value: Any) -> ImportPlan:
    """The plan for a checkpoint with one setting changed; None takes it out."""
    settings = deepcopy(released.SETTINGS)
    *parents, last = name.split(".")
    table = settings
    for key in parents:
        table = table.setdefault(key, {})
    if value is None:
        del table[last]
    else:
        table[last] = value
    return plan_import(released.fastwam(folder, settings=settings), None, released.SIZES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.video_dit_config.video_attention_mask_mode", "per_frame_causal"),
        ("model.video_dit_config.action_conditioned", True),
        ("model.video_dit_config.patch_size", [1, 4, 4]),
        ("model.video_dit_config.seperated_timestep", False),
        ("model.video_dit_config.fuse_vae_embedding_in_latents", False),
        ("model.video_dit_config.eps", "1e-5"),
        ("model.action_dit_config.eps", 1e-5),
        ("model.action_dit_config.num_heads", 4),
        ("model.video_scheduler.num_train_timesteps", 500),
        ("data.train.global_sample_stride", 2),
        ("data.train.camera_key", "image"),
    ],
)
def test_a_setting_with_another_value_than_here_is_refused_by_name(
    tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(WamkitError, match=rf"{name} = .*, expected"):
        plan_of(tmp_path, name, value)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        (
            "model.action_scheduler.train_shift",
            3.0,
            "action: another shift in training",
        ),
        ("mixed_precision", "fp16", "mixed_precision = 'fp16'; known are bf16, no"),
        ("data.train.action_video_freq_ratio", 3, "8 actions are no multiple of"),
        ("data.train.action_video_freq_ratio", 0, "= 0, expected a whole number from 1 on"),
    ],
)
def test_settings_that_no_spec_expresses_are_refused(
    tmp_path: Path, name: str, value: Any, match: str
) -> None:
    with pytest.raises(WamkitError, match=match):
        plan_of(tmp_path, name, value)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("action_idm_prob", 0, "action_idm_prob = 0: no action ever saw a future"),
        ("action_idm_prob", 1.5, "action_idm_prob = 1.5, expected a number from 0 to 1"),
        ("video_cond_noise_prob", "often", "video_cond_noise_prob = 'often', expected a number"),
    ],
)
def test_shares_of_an_optional_idm_that_are_none_are_refused(
    tmp_path: Path, name: str, value: Any, match: str
) -> None:
    settings = deepcopy(released.SETTINGS)
    target = "fastwam.runtime.create_fastwam_optional_idm"
    settings["model"] |= {"_target_": target, name: value}
    file = released.fastwam(tmp_path, settings=settings)
    with pytest.raises(WamkitError, match=match):
        plan_import(file, None, released.SIZES)


def test_steps_are_read_without_a_shift(tmp_path: Path) -> None:
    settings = deepcopy(released.SETTINGS)
    settings["model"] |= {"video_scheduler": {}, "action_scheduler": {}}
    settings["eval_num_inference_steps"] = 7
    file = released.fastwam(tmp_path, settings=settings)
    assert plan_import(file, None, released.SIZES).spec.schedules.action.steps == 7


def test_loss_weights_and_precision_are_read(tmp_path: Path) -> None:
    spec = plan_of(tmp_path, "model.loss", {"lambda_video": 0.5, "lambda_action": "2e0"}).spec
    assert (spec.schedules.video.loss_weight, spec.schedules.action.loss_weight) == (0.5, 2.0)
    settings = {**released.SETTINGS, "mixed_precision": "no"}
    sizes = [size for size in released.SIZES if not size.startswith("dtype")]
    assert plan_import(released.fastwam(tmp_path, settings=settings), None, sizes).spec.dtype == (
        "float32"
    )


def test_what_no_file_says_of_a_robot_is_noted(tmp_path: Path) -> None:
    mask = "data.train.processor.delta_action_dim_mask"
    notes = plan_of(tmp_path, mask, None).imported.notes
    assert any("actions.control_hz = 20 is a guess" in note for note in notes)
    assert any("kind = absolute is a guess" in note for note in notes)
    notes = plan_of(tmp_path, mask, {"default": [True, True, True, False]}).imported.notes
    assert not any("kind = absolute" in note for note in notes)


def test_damaged_settings_and_statistics_are_refused_clearly(tmp_path: Path) -> None:
    file = released.fastwam(tmp_path / "released")
    files = ("config.yaml", "libero_uncond_2cam224_dataset_stats.json")
    expect_clear_errors(file, files, tmp_path / "copies", released.SIZES, every=4)

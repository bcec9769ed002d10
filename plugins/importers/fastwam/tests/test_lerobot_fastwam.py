"""A policy folder of LeRobot's Fast-WAM is read, and acts as LeRobot's own classes do.

`data/lerobot_fastwam_tiny.safetensors` was recorded by `data/make_lerobot_fastwam_tiny.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from wamkit_fastwam import FastWAM

from wamkit.config.robot import Scaling
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Text
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.policy.normalization import Normalizer, Statistics
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.imported import expect_acts_and_learns, expect_clear_errors
from wamkit.testing.recorded import act_with_noise

RECORD = Path(__file__).parent / "data" / "lerobot_fastwam_tiny.safetensors"
PARTS = (
    *("backbone.variant=tiny", "vae.name=pixel_shuffle", "vae.strides=[4,2,2]"),
    *("text_encoder.name=bytes", "text_encoder.max_length=128"),
)
CAMERAS = ("image", "wrist_image")


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return load_file(RECORD)


def plan_of(folder: Path) -> ImportPlan:
    return plan_import(folder, None, PARTS)


def act(policy: Policy, record: dict[str, Tensor], monkeypatch: Any) -> Tensor:
    text = Text(record["context"])
    monkeypatch.setattr("wamkit.policy.preprocessing.embed_prompts", lambda *_, **__: text)
    images = {
        name: record[f"observation.images.{name}"].permute(2, 0, 1)[None, None] for name in CAMERAS
    }
    observation = Observation(images, "pick up the cup", record["state"][None])
    noise = torch.randn((1, 8, 4), generator=torch.Generator().manual_seed(11))
    return act_with_noise(policy, observation, [noise]).values[0]


def test_a_run_from_images_gives_the_actions_of_lerobot_in_physical_units(
    record: dict[str, Tensor], tmp_path: Path, monkeypatch: Any
) -> None:
    plan = plan_of(released.lerobot(tmp_path / "lerobot"))
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    error = float((act(policy, record, monkeypatch) - record["actions"]).abs().max())
    assert error <= FastWAM.verified["lerobot_run"], error


def test_blocks_under_the_experts_are_the_same_policy(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = released.lerobot(tmp_path / "lerobot")
    new = plan_of(folder)
    weights = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        parts = name.split(".")
        if parts[2] == "layers":
            name = ".".join(["model.mot.mixtures", parts[5], "blocks", parts[3], *parts[6:]])
        weights[name] = tensor
    save_file(weights, folder / "model.safetensors")
    old = plan_of(folder)
    for kind in ("backbone", "action_head"):
        assert old.weights[kind].keys() == new.weights[kind].keys()


def test_the_prompt_is_the_one_lerobot_makes(record: dict[str, Tensor], tmp_path: Path) -> None:
    spec = plan_of(released.lerobot(tmp_path / "lerobot")).spec
    with safe_open(RECORD, framework="pt") as file:
        expected = file.metadata()["prompt"]
    assert spec.text_encoder.prompt_template.format(instruction="pick up the cup") == expected


@pytest.mark.parametrize(
    ("mode", "rule"), [("MEAN_STD", "mean_std"), ("MIN_MAX", "min_max"), ("QUANTILES", "quantile")]
)
def test_values_are_normalized_as_by_the_steps_of_lerobot(
    record: dict[str, Tensor], mode: str, rule: Any, tmp_path: Path
) -> None:
    folder = released.lerobot(tmp_path / "lerobot")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        text = (folder / name).read_text().replace("MEAN_STD", mode)
        (folder / name).write_text(text)
    plan = plan_of(folder)
    assert plan.spec.actions.groups[0].normalization == rule
    own: Scaling = plan.spec.actions.scaling
    normalizer = Normalizer([rule] * 4, plan.statistics["action"], scaling=own)
    values = record["rules/values"]
    for name, found in (("encoded", normalizer.encode), ("decoded", normalizer.decode)):
        expected = record[f"rules/{mode}/{name}"]
        near = expected.abs() < 1e3  # a constant that varies all the same is far out
        assert float((found(values) - expected)[near].abs().max()) < 2e-6, name


def test_statistics_without_a_range_get_an_estimated_one(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = released.lerobot(tmp_path / "lerobot")
    for file in folder.glob("policy_*.safetensors"):
        rows = {k: v for k, v in load_file(file).items() if k.endswith(("mean", "std"))}
        save_file(rows, file)
    plan = plan_of(folder)
    assert isinstance(plan.statistics["action"], Statistics)
    assert any("estimated" in note for note in plan.imported.notes)


def test_settings_that_no_spec_expresses_are_refused_by_name(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = released.lerobot(tmp_path / "lerobot", torch_dtype="float16")
    with pytest.raises(WamkitError, match="torch_dtype = 'float16'"):
        plan_of(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "missing.safetensors", 7])
def test_statistics_outside_the_folder_are_refused(
    record: dict[str, Tensor], name: Any, tmp_path: Path
) -> None:
    folder = released.lerobot(tmp_path / "lerobot")
    file = folder / "policy_preprocessor.json"
    table = json.loads(file.read_text())
    table["steps"][-1]["state_file"] = name
    file.write_text(json.dumps(table))
    with pytest.raises(WamkitError, match="no such file"):
        plan_of(folder)


def test_a_config_without_its_tables_is_refused_without_a_traceback(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = released.lerobot(tmp_path / "lerobot", action_dit_config=None)
    with pytest.raises(WamkitError, match=r"config\.json"):
        plan_of(folder)


def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(tmp_path: Path) -> None:
    plan = plan_of(released.lerobot(tmp_path / "lerobot"))
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    expect_acts_and_learns(policy, tmp_path / "again")


def test_damaged_settings_are_refused_clearly(tmp_path: Path) -> None:
    folder = released.lerobot(tmp_path / "lerobot")
    files = ("config.json", "policy_preprocessor.json", "policy_postprocessor.json")
    expect_clear_errors(folder, files, tmp_path / "copies", PARTS, every=8)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_obs_steps": 2}, "n_obs_steps = 2, expected 1"),
        ({"text_cfg_scale": 3.0}, r"text_cfg_scale = 3\.0, expected 1\.0"),
        ({"tiled": True}, "tiled = True, expected False"),
        ({"action_horizon": 4, "n_action_steps": 4}, "with action_horizon = 4"),
        ({"num_inference_steps": 0}, "num_inference_steps = 0"),
        ({"image_size": [32, 50]}, "equal parts of image_size"),
        ({"normalization_mapping": {"VISUAL": "MEAN_STD"}}, "normalization_mapping.VISUAL"),
        ({"n_action_steps": "all"}, "n_action_steps = 'all', expected a whole number"),
    ],
)
def test_a_setting_that_changes_how_it_acts_is_read_or_refused(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(WamkitError, match=match):
        plan_of(released.lerobot(tmp_path / "lerobot", **changes))


def test_a_step_of_a_processor_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder = released.lerobot(tmp_path / "lerobot")
    file = folder / "policy_postprocessor.json"
    table = json.loads(file.read_text())
    table["steps"].append({"registry_name": "delta_actions_processor", "config": {}})
    file.write_text(json.dumps(table))
    with pytest.raises(WamkitError, match="has a step 'delta_actions_processor'"):
        plan_of(folder)


def test_what_lerobot_does_around_a_chunk_is_noted(tmp_path: Path) -> None:
    folder = released.lerobot(tmp_path / "lerobot", n_action_steps=3, freeze_video_expert=True)
    notes = " ".join(plan_of(folder).imported.notes)
    assert "LeRobot executes 3 of 8 actions before the next chunk." in notes
    assert "leaves the video network as it is" in notes

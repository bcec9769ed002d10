"""A released checkpoint of DreamZero becomes a policy: every tensor, statistics, adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_wan.image_encoder import ImageEncoder
from wamkit_wan.image_encoder import tiny as clip_shape

from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.source import Source
from wamkit.config.spec import parse, read
from wamkit.errors import WamkitError
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.policy.policy import Policy
from wamkit.testing.imported import expect_acts_and_learns, expect_clear_errors
from wamkit.testing.parity import same_values

EXAMPLES = Path(__file__).parents[4] / "examples"


@pytest.fixture
def whole(
    release: Any, record: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The plan of a checkpoint at its published size, of which only names and shapes are there."""

    def make(name: str, robot: str = "oxe_droid") -> ImportPlan:
        folder = release.checkpoint(record, tmp_path)
        facts = release.metadata(record) if robot == "oxe_droid" else {robot: agibot()}
        (folder / "experiment_cfg" / "metadata.json").write_text(json.dumps(facts))
        (folder / "config.json").write_text("{}")
        file = folder / "model-00001-of-00002.safetensors"
        entries = {
            k: Entry(file, k, tuple(shape), "BF16") for k, shape in release.published(name).items()
        }
        monkeypatch.setattr(Source, "_entries", lambda *_: entries)
        return plan_import(folder, None, ["text_encoder.name=bytes"])

    return make


def rows(size: int) -> dict[str, list[float]]:
    values = {"min": -3.0, "max": 3.0, "mean": 0.1, "std": 1.0, "q01": -2.0, "q99": 2.0}
    return {row: [value] * size for row, value in values.items()}


def agibot() -> dict[str, Any]:
    """`metadata.json` of the other released robot, with plausible statistics."""
    sizes = {"arm_joint": 7, "effector": 1}
    keys = {f"{side}_{k}_position": n for k, n in sizes.items() for side in ("left", "right")}
    keys |= {"head_position": 2, "waist_position": 2}
    kinds = {"state": keys, "action": {**keys, "robot_velocity": 2}}
    return {
        "statistics": {k: {key: rows(n) for key, n in v.items()} for k, v in kinds.items()},
        "modalities": {k: {key: {"shape": [n]} for key, n in v.items()} for k, v in kinds.items()},
    }


@pytest.mark.parametrize(
    ("name", "example"), [("14b", "dreamzero_14b.toml"), ("5b", "dreamzero_5b.toml")]
)
def test_every_tensor_of_a_published_checkpoint_is_accounted_for(
    whole: Any, release: Any, name: str, example: str
) -> None:
    plan = whole(name)
    used = {entry.name for entries in plan.weights.values() for entry in entries.values()}
    left_out = {tensor for names in plan.dropped.values() for tensor in names}
    assert used | left_out == set(release.published(name)) and not used & left_out
    assert parse(dict(plan.imported.spec)) == parse(read(EXAMPLES / example))


def test_agibot_has_a_black_corner_and_a_prompt_of_its_own(whole: Any) -> None:
    spec = whole("14b", "agibot").spec
    assert spec.cameras.fill and spec.cameras.canvas == (352, 640)
    assert "black screen" in spec.text_encoder.prompt_template
    assert (spec.actions.size, spec.state.size) == (22, 20)


def test_the_imported_clip_tower_is_that_of_the_checkpoint(
    release: Any, record: dict[str, Tensor], tmp_path: Path
) -> None:
    plan = plan_import(release.checkpoint(record, tmp_path / "released"), None, release.SIZES)
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    expected: Any = release.fill(ImageEncoder(clip_shape(16)), 12)
    found: Any = policy.conditioner
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in expected.state_dict().items())
    again = Policy.load(policy.save(tmp_path / "again"))
    assert again.spec == policy.spec


def test_adapters_that_were_never_merged_are_merged_by_the_scale_of_the_settings(
    release: Any, record: dict[str, Tensor], tmp_path: Path
) -> None:
    plan = plan_import(
        release.checkpoint(record, tmp_path / "released", lora=True), None, release.SIZES
    )
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    start = "action_head.model."
    state = {k.removeprefix("weights/"): v for k, v in record.items() if k.startswith("weights/")}
    files = release.adapted(state)
    layer = f"{start}base_model.model.blocks.1.cross_attn.k."
    a, b = (files[f"{layer}lora_{x}.default.weight"] for x in "AB")
    found: Any = policy.backbone
    merged = state[f"{start}blocks.1.cross_attn.k.weight"] + 1.5 * b @ a
    same_values(found.blocks[1].attn2.to_k.weight, merged, 1e-6)
    head: Any = policy.action_head
    theirs = state[f"{start}action_encoder.W2.W"]
    assert torch.equal(head.action_embedder.W2.weight, theirs.transpose(1, 2))


@pytest.mark.parametrize(("evaluations", "made"), [(5, 5), (8, 8), (16, 16)])
def test_the_number_of_evaluations_is_an_option_of_the_import(
    release: Any, record: dict[str, Tensor], tmp_path: Path, evaluations: int, made: int
) -> None:
    options = (*release.SIZES, f"importer.evaluations={evaluations}")
    spec = plan_import(release.checkpoint(record, tmp_path), None, options).spec
    assert spec.schedules.video.evaluations == spec.schedules.action.evaluations == made
    assert spec.paradigm.program(spec)[1].passes == made


@pytest.mark.parametrize("lost", ["lora_alpha", "lora_rank"])
def test_a_scale_of_adapters_that_is_half_stated_is_asked_for(
    release: Any, record: dict[str, Tensor], tmp_path: Path, lost: str
) -> None:
    folder = release.checkpoint(record, tmp_path, lora=True)
    settings = json.loads((folder / "config.json").read_text())
    del settings["action_head_cfg"]["config"][lost]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(WamkitError, match="states its scale") as found:
        plan_import(folder, None, release.SIZES)
    assert "--set backbone.lora_scale=" in found.value.hint


def test_a_checkpoint_without_its_settings_is_refused(
    release: Any, record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = release.checkpoint(record, tmp_path)
    (folder / "config.json").write_text("{}")
    with pytest.raises(WamkitError, match="heads do not divide"):
        plan_import(folder, None, release.SIZES)
    (folder / "config.json").unlink()
    with pytest.raises(WamkitError, match=r"has no config\.json") as found:
        plan_import(folder, None, release.SIZES)
    assert found.value.hint == "config.json is missing: download the whole repository"


def test_settings_that_are_assumed_are_noted(whole: Any) -> None:
    notes = " ".join(whole("14b").imported.notes)
    for key in ("num_heads: 40", "num_frame_per_block: 2", "max_chunk_size: 4"):
        assert f"config.json states no {key} is assumed" in notes


def test_a_checkpoint_without_statistics_or_of_an_unknown_robot_is_refused(
    release: Any, record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = release.checkpoint(record, tmp_path)
    file = folder / "experiment_cfg" / "metadata.json"
    file.write_text(json.dumps({"some_arm": {}}))
    with pytest.raises(WamkitError, match=r"metadata\.json is of some_arm"):
        plan_import(folder, None, release.SIZES)
    file.unlink()
    with pytest.raises(WamkitError, match=r"no experiment_cfg/metadata\.json"):
        plan_import(folder, None, release.SIZES)


def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(
    release: Any, record: dict[str, Tensor], tmp_path: Path
) -> None:
    options = [*release.SIZES]
    options += [f"cameras.views.{i}.{size}" for i, size in enumerate(release.SMALL[True])]
    plan = plan_import(release.checkpoint(record, tmp_path / "released"), None, options)
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    expect_acts_and_learns(policy, tmp_path / "again")


def test_damaged_settings_and_statistics_are_refused_clearly(
    release: Any, record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = release.checkpoint(record, tmp_path / "released")
    files = ("config.json", "experiment_cfg/metadata.json")
    expect_clear_errors(folder, files, tmp_path / "copies", release.SIZES, every=2)


@pytest.mark.parametrize("key", ["num_frame_per_block", "num_action_per_block", "max_chunk_size"])
def test_a_size_of_zero_is_refused_by_name(
    release: Any, record: dict[str, Tensor], tmp_path: Path, key: str
) -> None:
    folder = release.checkpoint(record, tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    settings["action_head_cfg"]["config"]["diffusion_model_cfg"][key] = 0
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(WamkitError, match=rf"config\.json: {key} = 0, expected a whole number"):
        plan_import(folder, None, release.SIZES)

"""A Fast-WAM policy is written as the folder that LeRobot's own class saved, or is refused."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from safetensors.torch import load_file
from wamkit_fastwam.lerobot_export import RULES
from wamkit_fastwam.lerobot_rules import rule_of
from wamkit_mot.weights import LAYOUTS as MOT
from wamkit_wan.weights import LAYOUTS as WAN

from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.source import Source
from wamkit.config.importing import Normalized
from wamkit.config.robot import Scaling
from wamkit.config.trust import trusting_paths
from wamkit.errors import WamkitError
from wamkit.files import strict_yaml
from wamkit.policy.exporting import plan_export
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.policy.saving import strip_paths

OWN_CHOICE = {
    *("base_model_id", "push_to_hub", "inference_seed", "n_action_steps"),
    *("text_encoder_model_id", "tokenizer_model_id"),
}
"""Settings of `config.json` that an export decides, and that the record has otherwise."""


@pytest.fixture(scope="module", autouse=True)
def _trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is trusted here is not remembered in the user's home."""
    with pytest.MonkeyPatch.context() as patch, trusting_paths():
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that LeRobot saved as `source`, and its import as `policy`."""
    folder = tmp_path_factory.mktemp("lerobot") / "home"
    released.exportable(folder)
    return folder


@pytest.fixture(scope="module")
def exported(home: Path) -> Path:
    return plan_export("lerobot", home / "policy").write(home / "exported")


def test_the_exported_weights_are_those_of_the_class_by_name_and_value(
    home: Path, exported: Path
) -> None:
    theirs, ours = (load_file(f / "model.safetensors") for f in (home / "source", exported))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_the_exported_statistics_and_processors_are_those_of_the_class(
    home: Path, exported: Path
) -> None:
    for name in ("policy_preprocessor", "policy_postprocessor"):
        theirs, ours = (json.loads((f / f"{name}.json").read_text()) for f in
                        (home / "source", exported))  # fmt: skip
        assert theirs == ours
        file = next(step["state_file"] for step in ours["steps"] if "state_file" in step)
        rows, own = load_file(home / "source" / file), load_file(exported / file)
        assert own and all(torch.equal(rows[key], own[key]) for key in own)


def test_the_exported_configuration_is_that_of_the_class(home: Path, exported: Path) -> None:
    theirs, ours = (json.loads((f / "config.json").read_text()) for f in
                    (home / "source", exported))  # fmt: skip
    assert not ours.keys() - theirs.keys()
    differing = {key for key in ours if ours[key] != theirs[key]} - OWN_CHOICE
    assert not differing


def test_every_reason_against_an_export_is_named_at_once(home: Path) -> None:
    changes = ["actions.clip=5.0", "cameras.views.0.fit=crop", "action_head.decoder=adaln"]
    with pytest.raises(WamkitError) as found:
        plan_export("lerobot", home / "policy", changes)
    for key in ("actions.clip is 5.0", "cameras.views.0.fit is crop", "action_head.decoder"):
        assert key in found.value.what
    assert "--set actions.clip=none" in found.value.what


def test_a_policy_of_other_parts_is_refused(tmp_path: Path) -> None:
    import wamkit

    small = Path(__file__).parents[4] / "tests" / "data" / "small.toml"
    wamkit.build(small).save(tmp_path / "policy")
    with pytest.raises(WamkitError, match="backbone is toy"):
        plan_export("lerobot", tmp_path / "policy")


def test_an_unknown_format_is_refused_with_the_known_ones(home: Path) -> None:
    with pytest.raises(WamkitError, match="known are lerobot"):
        plan_export("lerobat", home / "policy")


def test_a_folder_with_other_files_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WamkitError, match="no export"):
        plan_export("lerobot", home / "policy").write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_normalization_that_lerobot_lacks_is_written_as_mean_and_deviation() -> None:
    rows: dict[str, Any] = {
        "min": [0.0, 0.0],
        "max": [4.0, 2.0],
        "mean": [1.0, 1.0],
        "std": [0.5, 0.5],
        "q01": [0.1, 0.1],
        "q99": [3.9, 1.9],
    }
    own = Normalized([2.0, 1.0], [2.0, 0.5], rows)
    mixed = rule_of(["min_max", "mean_std"], Scaling(), own)
    assert (mixed.mode, mixed.epsilon) == ("MEAN_STD", 0.0)
    assert mixed.rows == {"mean": [2.0, 1.0], "std": [2.0, 0.5]}
    same = rule_of(["min_max"] * 2, Scaling(), Normalized([2.0, 1.0], [2.0, 1.0], rows))
    assert same.mode == "MIN_MAX" and same.rows is rows


def published() -> dict[str, Any]:
    """`config.json` of LeRobot's class, and names and shapes of its `model.safetensors`."""
    file = Path(__file__).parent / "data" / "lerobot_fastwam_names.json.gz"
    return json.loads(gzip.decompress(file.read_bytes()))  # type: ignore[no-any-return]


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImportPlan:
    """The import of a folder of published size, of which only names and shapes are there."""
    record, folder = published(), tmp_path / "lerobot"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(record["config.json"]))
    file = folder / "model.safetensors"
    file.touch()
    entries = {k: Entry(file, k, tuple(s), "BF16") for k, s in record["model.safetensors"].items()}
    monkeypatch.setattr(Source, "_entries", lambda *_: entries)
    return plan_import(folder, None, ("text_encoder.name=bytes",))


def test_every_tensor_of_the_class_has_its_place_at_published_size(whole: ImportPlan) -> None:
    used = {entry.name for entries in whole.weights.values() for entry in entries.values()}
    assert used == published()["model.safetensors"].keys()
    assert not whole.dropped


def test_an_export_of_published_size_has_the_names_and_shapes_of_the_class(
    whole: ImportPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, table in (
        ("text_encoder/config.json", {"model_type": "umt5", "d_model": 4096}),
        ("tokenizer/tokenizer.json", {}),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(table))
    raw = strip_paths(whole.spec).dump()
    raw["text_encoder"] = {
        "name": "umt5-xxl", "weights": str(tmp_path),
        "prompt_template": whole.spec.text_encoder.prompt_template,
    }  # fmt: skip
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "statistics.json").write_text("{}")
    (policy / "spec.yaml").write_text(strict_yaml.dumps(raw))
    held = {}
    for kind in ("backbone", "action_head"):
        file = policy / f"{kind}.safetensors"
        file.touch()
        tensors = getattr(whole.shape, kind).state_dict()
        held[file] = {k: Entry(file, k, tuple(t.shape), "BF16") for k, t in tensors.items()}
    monkeypatch.setattr("wamkit.policy.exporting.headers", lambda files: held[files[0]])
    found = {k: list(entry.shape) for k, entry in plan_export("lerobot", policy).weights.items()}
    assert found == published()["model.safetensors"]


def test_every_tensor_of_published_size_has_its_name_in_the_class() -> None:
    """The names of the released checkpoint, to ours, to those of LeRobot, which keeps blocks apart.

    LeRobot's class reads both: `MoT._load_from_state_dict` renames blocks the same way.
    """
    file = Path(__file__).parent / "data" / "fastwam_names.json"
    names = json.loads(file.read_text())["libero"]
    parts: dict[str, Any] = {
        "backbone": (WAN, r"^mot\.mixtures\.video\."),
        "action_head": (MOT, r"^(mot\.mixtures\.action|proprio_encoder)\."),
    }
    for kind, (layouts, pattern) in parts.items():
        layout = layouts[1]
        for name in filter(re.compile(pattern).search, names):
            (new,) = layout.rename(name.replace("*", "29"))
            for found, replacement in RULES[kind]:
                new = re.sub(found, replacement, new)
            expert = re.fullmatch(r"mot\.mixtures\.(\w+)\.blocks\.\*\.(.+)", name)
            theirs = f"mot.layers.29.blocks.{expert[1]}.{expert[2]}" if expert is not None else name
            assert new == f"model.{theirs}"

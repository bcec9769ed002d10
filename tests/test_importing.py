"""A released checkpoint becomes a policy folder; a damaged or foreign one is refused whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import released
import torch
from safetensors.torch import save_file

from wamkit import build as wamkit_build
from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, ImporterConfig, Selection
from wamkit.config.registry import Registry, registry
from wamkit.config.spec import read
from wamkit.errors import WamkitError
from wamkit.policy.importing import plan_import
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
Run = Callable[..., tuple[int, str, str]]
ALL = [registry().get("importer", name) for name in registry().names("importer")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released.fastwam(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = plan_import(checkpoint, None, released.SIZES)
    return plan.write(tmp_path_factory.mktemp("imported") / "policy", random_parts=True)


def copied(checkpoint: Path, folder: Path) -> Path:
    """The files of a checkpoint in another folder; the file of weights."""
    shutil.copytree(checkpoint.parent, folder, dirs_exist_ok=True)
    return folder / checkpoint.name


def test_an_imported_policy_holds_the_weights_and_statistics_of_the_checkpoint(
    checkpoint: Path, folder: Path
) -> None:
    policy = Policy.load(folder)
    theirs = torch.load(checkpoint, weights_only=True)
    ours = sum(
        p.numel()
        for part in (policy.backbone, policy.action_head)
        for p in part.parameters()  # type: ignore[attr-defined]
    )
    assert ours == sum(
        p.numel() for t in (theirs["mot"], theirs["proprio_encoder"]) for p in t.values()
    )
    assert policy.statistics["action"].max == (3.0,) * 4
    assert policy.statistics["state"].q99 == (2.5,) * 3


def test_an_imported_policy_acts_the_same_after_it_is_saved_and_loaded(
    folder: Path, tmp_path: Path
) -> None:
    policy = Policy.load(folder)
    again = Policy.load(policy.save(tmp_path / "again"))
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 1, 3, 40, 60), dtype=torch.uint8, generator=rng)
    observation = Observation({"image": image}, "pick up the cup", torch.tensor([[0.1, 0.2, 0.3]]))
    first, second = (p.act(observation, seed=1).values for p in (policy, again))
    assert torch.equal(first, second)


def test_an_import_builds_the_shape_of_the_policy_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, build = [], Policy.from_spec
    monkeypatch.setattr(Policy, "from_spec", lambda *a, **k: (built.append(k), build(*a, **k))[1])
    plan_import(checkpoint, None, released.SIZES).write(tmp_path / "policy", random_parts=True)
    assert built == [{"device": "meta"}]


def test_the_dry_run_of_an_import_writes_nothing(checkpoint: Path, wamkit: Run) -> None:
    before = sorted(checkpoint.parent.iterdir())
    code, out, _ = wamkit("import", checkpoint, "--dry-run", *released.set_options())
    assert code == 0
    assert "recognized by the importer fastwam" in out
    assert sorted(checkpoint.parent.iterdir()) == before


def test_parts_that_the_checkpoint_lacks_are_asked_for_with_their_published_place(
    checkpoint: Path, tmp_path: Path
) -> None:
    plan = plan_import(checkpoint, None, released.SIZES)
    with pytest.raises(WamkitError, match="does not hold every part") as found:
        plan.write(tmp_path / "policy")
    assert "--set vae.weights=" in found.value.hint
    assert not (tmp_path / "policy").exists()


def test_a_plan_is_made_without_the_files_of_the_text_encoder(
    checkpoint: Path, tmp_path: Path
) -> None:
    own = [text for text in released.SIZES if not text.startswith("text_encoder")]
    plan = plan_import(checkpoint, None, [*own, "text_encoder.adapter=linear"])
    assert plan.spec.text_encoder.name == "umt5-xxl"
    assert plan.missing == ("vae", "text_encoder")
    for random_parts in (False, True):  # UMT5 has no random weights
        with pytest.raises(WamkitError, match="text_encoder: hf:Wan-AI"):
            plan.write(tmp_path / "policy", random_parts=random_parts)


def test_a_tensor_that_no_part_knows_is_named(checkpoint: Path, tmp_path: Path) -> None:
    payload = torch.load(checkpoint, weights_only=True)
    payload["critic"] = {"weight": torch.zeros(2, 2)}
    torch.save(payload, copied(checkpoint, tmp_path))
    with pytest.raises(WamkitError, match=r"belong to no part: critic\.weight"):
        plan_import(tmp_path / "libero_uncond_2cam224.pt", None, released.SIZES)


def test_two_tensors_that_are_renamed_to_one_are_both_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    name = "mixtures.video.blocks.1.norm3.weight"
    payload = torch.load(checkpoint, weights_only=True)
    payload[name] = payload["mot"][name] + 1
    torch.save(payload, copied(checkpoint, tmp_path))
    with pytest.raises(WamkitError, match=rf"gives two tensors the name .* {name} of") as found:
        plan_import(tmp_path / "libero_uncond_2cam224.pt", None, released.SIZES)
    assert f"mot.{name} of" in found.value.what


def test_missing_tensors_of_all_parts_are_named_at_once(checkpoint: Path, tmp_path: Path) -> None:
    payload = torch.load(checkpoint, weights_only=True)
    del payload["mot"]["mixtures.video.blocks.1.norm3.weight"]
    del payload["mot"]["mixtures.action.head.weight"]
    torch.save(payload, copied(checkpoint, tmp_path))
    with pytest.raises(WamkitError, match=r"(?s)norm2\.weight.*action_decoder\.weight"):
        plan_import(tmp_path / "libero_uncond_2cam224.pt", None, released.SIZES)


def test_a_truncated_file_is_refused_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    file = copied(checkpoint, tmp_path)
    file.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(WamkitError, match="libero_uncond"):
        plan_import(file, None, released.SIZES)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_in_a_folder_is_named_as_that(checkpoint: Path, tmp_path: Path) -> None:
    file = copied(checkpoint, tmp_path)
    file.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(WamkitError) as found:
        plan_import(tmp_path, None, released.SIZES)
    assert file.name in found.value.what and "importer" not in found.value.what
    assert "download it again" in found.value.hint


def test_a_value_that_is_not_finite_is_named_and_nothing_is_written(
    checkpoint: Path, tmp_path: Path
) -> None:
    payload = torch.load(checkpoint, weights_only=True)
    payload["mot"]["mixtures.action.head.weight"][0, 0] = float("nan")
    file = copied(checkpoint, tmp_path)
    torch.save(payload, file)
    plan = plan_import(file, None, released.SIZES)
    with pytest.raises(WamkitError, match=r"mixtures\.action\.head\.weight.*nan"):
        plan.write(tmp_path / "policy", random_parts=True)
    assert len(list(tmp_path.iterdir())) == 3


def test_weights_of_another_kind_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(WamkitError, match="no checkpoint that an importer recognizes") as found:
        plan_import(tmp_path / "other.pt")
    assert "wamkit list importer" in found.value.hint


def test_a_system_that_did_not_release_it_is_refused_with_the_one_that_did(
    checkpoint: Path, tmp_path: Path
) -> None:
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(WamkitError, match="is no checkpoint of fastwam"):
        plan_import(tmp_path / "other.pt", "fastwam")
    with pytest.raises(WamkitError, match="no importer is called"):
        plan_import(checkpoint, "fastwan")


def test_statistics_of_another_robot_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    file = copied(checkpoint, tmp_path)
    stats = tmp_path / f"{file.stem}_dataset_stats.json"
    tables = json.loads(stats.read_text())
    rows = tables["state"]["default"]
    tables["state"]["default"] = {row: values[:2] for row, values in rows.items()}
    stats.write_text(json.dumps(tables))
    with pytest.raises(WamkitError, match="statistics of state have 2 values, the policy 3"):
        plan_import(file, None, released.SIZES)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.model_fields["name"].default)
def test_an_importer_states_license_and_source_and_what_was_compared(
    cls: type[ImporterConfig],
) -> None:
    assert cls.source.startswith("https://")
    assert "license" in vars(cls) and cls.license
    assert {"network", "mask", "levels", "loss", "run"} <= set(cls.verified)
    assert cls.unverified, "the released weights alone leave something open"


class Bare(ImporterConfig):
    """Checkpoints of the toy, in names of their own, as a third party's plugin would read them."""

    license = "CC0-1.0"
    source = "https://example.com/bare"
    name: Literal["bare"] = "bare"

    def recognizes(self, source: Source) -> bool:
        return any(name.startswith("net/") for name in source.tensor_names)

    def read(self, source: Source) -> Imported:
        rules = ((r"^(net|arm)/", ""), (r"/", "."))
        return Imported(
            spec=read(TOY),
            weights={
                "backbone": Selection("^net/", rules),
                "action_head": Selection("^arm/", rules, layouts=()),
            },
            dropped={"^step$": "a counter"},
            license="CC0-1.0",
        )


def test_a_checkpoint_of_no_importer_is_refused_with_what_its_settings_say_it_is(
    tmp_path: Path,
) -> None:
    save_file({"flow.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"type": "lawam", "chunk_size": 50}')
    with pytest.raises(WamkitError, match=r"config\.json states type = 'lawam'"):
        plan_import(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(WamkitError, match=r"recognizes: it holds 1 tensors, named flow\.\*;"):
        plan_import(tmp_path)


def test_an_importer_that_stumbles_over_a_damaged_file_ends_in_an_error_with_a_hint(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def divide(*_: Any) -> Imported:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(registry().get("importer", "fastwam"), "read", divide)
    with pytest.raises(WamkitError, match="does not say what fastwam expects") as found:
        plan_import(checkpoint)
    assert "copy its settings and statistics again" in found.value.hint


def test_a_plugin_of_a_third_party_brings_an_importer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Registry(
        {kind: dict(parts) for kind, parts in registry().parts.items()},
        plugin_of=dict(registry().plugin_of),
    )
    mine.parts["importer"]["bare"] = Bare
    monkeypatch.setattr("wamkit.config.registry._found", [mine])
    policy = wamkit_build(TOY)
    tensors = {f"net/{k.replace('.', '/')}": v for k, v in policy.backbone.state_dict().items()}  # type: ignore[attr-defined]
    head: Any = policy.action_head
    tensors |= {f"arm/{k.replace('.', '/')}": v for k, v in head.state_dict().items()}
    save_file({**tensors, "step": torch.tensor(3)}, tmp_path / "bare.safetensors")
    plan = plan_import(tmp_path / "bare.safetensors")
    assert plan.importer.name == "bare"
    assert plan.dropped == {"a counter": ("step",)}
    again = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    for part in ("backbone", "action_head"):
        ours, theirs = (getattr(p, part).state_dict() for p in (again, policy))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

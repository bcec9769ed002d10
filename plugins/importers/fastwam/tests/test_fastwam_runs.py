"""A checkpoint of Fast-WAM, imported, acts as the authors' code does: images to physical units.

`data/fastwam_runs.safetensors` was recorded from the published code by `data/make_fastwam_runs.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_fastwam import FastWAM
from wamkit_fastwam.specs import LIBERO, ROBOTWIN, VARIANTS

from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.source import Source
from wamkit.config.spec import parse, read
from wamkit.engine.noise_schedule import NoiseSchedule
from wamkit.interfaces.types import Text
from wamkit.policy.build import resolve
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.imported import expect_acts_and_learns
from wamkit.testing.parity import float64, same_values, to_float64
from wamkit.testing.recorded import act_with_noise, read_record

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).parents[4] / "examples"
VARIANTS_OF_RUNS = ("uncond", "joint", "idm")
Import = Callable[..., Policy]


def views_of(policy: Policy, record: dict[str, Tensor], release: str) -> dict[str, Tensor]:
    """The recorded images, by the names of the cameras."""
    names = [view.name for view in policy.spec.cameras.views]
    return {name: record[f"{release}/{name}"].permute(2, 0, 1)[None, None] for name in names}


def run(policy: Policy, record: dict[str, Tensor], release: str, monkeypatch: Any) -> Tensor:
    """The actions of an imported policy for what was recorded."""
    policy = to_float64(policy)
    with float64():
        text = Text(record["libero/text"].double())
        monkeypatch.setattr("wamkit.policy.preprocessing.embed_prompts", lambda *_, **__: text)
        observation = Observation(
            views_of(policy, record, release), "pick up the cup", record[f"{release}/state"][None]
        )
        size = 4 if release == "libero" else 14
        action, video = (
            torch.randn(shape, generator=torch.Generator().manual_seed(11), dtype=torch.float32)
            for shape in ((1, 8, size), (1, 48, 3, 16, 24))
        )
        # The authors' code draws noise for every frame, and writes the observed one over it.
        chunk = act_with_noise(policy, observation, [action, video, video[:, :, 1:]])
    return chunk.values[0]


@pytest.mark.parametrize("variant", VARIANTS_OF_RUNS)
def test_a_run_from_images_gives_the_published_actions_in_physical_units(
    record: dict[str, Tensor],
    import_tiny: Import,
    variant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = run(import_tiny(tmp_path, "libero", variant), record, "libero", monkeypatch)
    error = float((found - record[f"libero/{variant}/actions"]).abs().max())
    assert error <= FastWAM.verified["run"], error


@pytest.mark.parametrize(("way", "stop"), [("idm", "0"), ("first_frame", "first_frame")])
def test_the_optional_idm_acts_with_and_without_a_future_as_published(
    record: dict[str, Tensor],
    import_tiny: Import,
    way: str,
    stop: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("schedules.video.shift=1", f"paradigm.stop_sigma={stop}")
    policy = import_tiny(tmp_path, "libero", "optional_idm", *options)
    found = run(policy, record, "libero", monkeypatch)
    expected = read_record(DATA / "fastwam_training.safetensors")[f"ways/{way}"]
    error = float((found - expected).abs().max())
    assert error <= FastWAM.verified["run"], error


def test_a_run_with_three_cameras_and_deviations_gives_the_published_actions(
    record: dict[str, Tensor],
    import_tiny: Import,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = run(import_tiny(tmp_path, "robotwin", "uncond"), record, "robotwin", monkeypatch)
    error = float((found - record["robotwin/actions"]).abs().max())
    assert error <= FastWAM.verified["run"], error


@pytest.mark.parametrize(("release", "step"), [("libero", 1), ("robotwin", 7)])
def test_images_become_the_canvas_of_the_evaluations(
    record: dict[str, Tensor], import_tiny: Import, release: str, step: int, tmp_path: Path
) -> None:
    policy = import_tiny(tmp_path, release, "uncond")
    canvas = policy.cameras.canvas(views_of(policy, record, release))[0, :, 0].permute(1, 2, 0)
    levels = ((canvas + 1) * 127.5).round().to(torch.uint8)[::step, ::step]
    difference = (levels.int() - record[f"{release}/canvas"].int()).abs()
    assert int(difference.max()) <= 1  # Pillow weighs pixels in 22 bits
    assert float((difference > 0).float().mean()) < 0.001


@pytest.mark.parametrize("steps", [4, 10])
def test_levels_of_sampling_are_the_published_ones(record: dict[str, Tensor], steps: int) -> None:
    flow = resolve(EXAMPLES / "fastwam.toml", tiny=True).schedules.action
    for dtype in ("float32", "bfloat16"):
        rounded = flow.model_copy(update={"bf16_sampling": dtype == "bfloat16"})
        sampler = NoiseSchedule(rounded).init_sampler(torch.zeros(1, 1), steps)
        times, deltas = (
            record[f"levels/{steps}/{dtype}/{name}"] for name in ("timesteps", "deltas")
        )
        same_values(torch.tensor(sampler.levels), times / 1000, 1e-7)
        found = []
        while not sampler.done:
            before = sampler.x
            sampler.step(torch.ones(1, 1))
            found.append(float(sampler.x - before))
        assert float((torch.tensor(found) - deltas).abs().max()) <= FastWAM.verified["levels"]


@pytest.mark.parametrize(
    ("example", "base", "variant"),
    [
        ("fastwam.toml", LIBERO, "uncond"),
        ("fastwam_joint.toml", LIBERO, "joint"),
        ("fastwam_idm.toml", LIBERO, "idm"),
        ("fastwam_robotwin.toml", ROBOTWIN, "uncond"),
    ],
)
def test_the_examples_are_the_specs_of_the_released_files(
    example: str, base: dict[str, Any], variant: str
) -> None:
    from wamkit.config.extends import merge

    spec = parse(merge(base, VARIANTS[variant]))
    assert parse(read(EXAMPLES / example)).dump() == spec.dump()


@pytest.mark.parametrize("variant", [*VARIANTS_OF_RUNS, "optional_idm"])
def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(
    import_tiny: Import, variant: str, tmp_path: Path
) -> None:
    expect_acts_and_learns(import_tiny(tmp_path, "libero", variant), tmp_path / "again")


def published(release: str) -> dict[str, list[int]]:
    """Name -> shape of every tensor of a released file, as the authors' own classes have it."""
    table = json.loads((DATA / "fastwam_names.json").read_text())[release]
    return {
        name.replace("*", str(layer)): shape
        for name, shape in table.items()
        for layer in range(30 if "*" in name else 1)
    }


def plan_published(
    name: str, release: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[ImportPlan, dict[str, list[int]]]:
    """The plan of a file of which only names and shapes are there, with these."""
    file, shapes = folder / name, published(release)
    file.touch()
    held = {k: Entry(file, k, tuple(shape), "BF16") for k, shape in shapes.items()}
    held["optimizer.state.0.exp_avg"] = Entry(file, "optimizer.state.0.exp_avg", (2,), "BF16")
    monkeypatch.setattr(Source, "_entries", lambda *_: held)
    text = ("text_encoder.name=bytes", "text_encoder.embedding=4096")
    return plan_import(file, None, (*text, *options)), shapes


@pytest.mark.parametrize(
    ("name", "release", "example"),
    [
        ("libero_uncond_2cam224", "libero", "fastwam.toml"),
        ("libero_joint_2cam224", "libero", "fastwam_joint.toml"),
        ("libero_idm_2cam224", "libero", "fastwam_idm.toml"),
        ("robotwin_uncond_3cam_384", "robotwin", "fastwam_robotwin.toml"),
    ],
)
def test_every_tensor_of_the_published_size_has_its_place(
    name: str, release: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, shapes = plan_published(f"{name}.pt", release, tmp_path, monkeypatch)
    used = {entry.name for entries in plan.weights.values() for entry in entries.values()}
    assert used == set(shapes)
    assert plan.dropped == {"state of the optimizer": ("optimizer.state.0.exp_avg",)}
    assert parse(dict(plan.imported.spec)) == parse(read(EXAMPLES / example))


def test_the_released_optional_idm_is_an_idm_that_also_acts_on_the_observation_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "libero_optional_idm_2cam224.pt"
    plan, shapes = plan_published(name, "libero", tmp_path, monkeypatch)
    assert sum(len(entries) for entries in plan.weights.values()) == len(shapes)
    assert plan.imported.system == "Fast-WAM-Optional-IDM (LIBERO)"
    assert any("paradigm.stop_sigma=first_frame" in note for note in plan.imported.notes)
    found, idm = (
        parse(t).dump() for t in (plan.imported.spec, read(EXAMPLES / "fastwam_idm.toml"))
    )
    idm["paradigm"] |= {"context_noise_prob": 0.0, "drop_future_prob": 0.5}
    idm["schedules"]["action"]["shift"] = 1.0
    assert found == idm


def test_a_future_of_pure_noise_may_be_passed_once_as_in_simple_wam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, option = "libero_joint_2cam224_1e-4.pt", "paradigm.refresh=[0]"
    plan, shapes = plan_published(name, "libero", tmp_path, monkeypatch, option)
    assert sum(len(entries) for entries in plan.weights.values()) == len(shapes)
    assert plan.imported.system == "Fast-WAM-Joint (LIBERO)"
    assert plan.spec.paradigm.refresh == (0,)  # type: ignore[attr-defined]

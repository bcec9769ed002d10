"""Cosmos Policy's own code and the published spec compute the same, from the same files.

`data/cosmos_policy_tiny.safetensors` was recorded from the published code by
`data/make_cosmos_policy_tiny.py`.
"""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from wamkit_cosmos_policy import CosmosPolicy
from wamkit_cosmos_policy.specs import SPECS

from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.lazy import LazyTensors
from wamkit.checkpoints.pickle_values import embeddings
from wamkit.checkpoints.random_weights import build_seeded
from wamkit.checkpoints.safetensors import save
from wamkit.checkpoints.source import Source
from wamkit.config.spec import parse, read
from wamkit.config.trust import trusting_paths
from wamkit.engine.noise_schedule import NoiseSchedule
from wamkit.errors import WamkitError
from wamkit.policy.importing import plan_import
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy
from wamkit.policy.precomputed_text import store
from wamkit.policy.preprocessing import canvas_of, inference_inputs, training_inputs
from wamkit.testing.imported import expect_acts_and_learns, expect_clear_errors
from wamkit.testing.parity import float64, same_values, to_float64
from wamkit.testing.recorded import read_record

RECORD = Path(__file__).parent / "data" / "cosmos_policy_tiny.safetensors"
EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
TASK = "put the bowl on the plate"
SMALL = (
    'vae.width="tiny"',
    "text_encoder.embedding=16",
    "text_encoder.max_length=5",
    "actions.chunk_size=6",
    'actions.groups=[{name="arm", size=4}]',
    "state.size=3",
    "video.frame_stride=6",
    "cameras.views.0.size=[32, 32]",
    "cameras.views.1.size=[32, 32]",
    'dtype="float32"',
)
"""What a checkpoint does not hold, at the sizes of the record."""
TINY = (
    'backbone.variant="tiny"',
    "backbone.layers=2",
    "backbone.num_heads=2",
    "backbone.head_dim=12",
    "backbone.mlp_dim=48",
    "backbone.modulation_rank=4",
    "backbone.text_width=16",
    *SMALL,
)


VERIFIED = CosmosPolicy.verified
PARTS = ("action", "video", "next_state", "value")


def load_record() -> dict[str, Tensor]:
    """All tensors of the record by name."""
    return read_record(RECORD)


def tiny_spec(example: str, *overrides: str) -> dict[str, Any]:
    """An example spec at the sizes of the record, its cameras of 32 pixels."""
    return read(EXAMPLES / example, (*TINY, *overrides))


class Draws:
    """Noise that was recorded, in place of noise that is drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
        self.left: Iterator[Tensor] = iter(())
        monkeypatch.setattr(f"{module}.draw_noise", self._next)

    def give(self, noise: Tensor, parts: tuple[str, ...]) -> None:
        """Give the noise of all latent frames [B, 16, 9, h, w], part by part."""
        frames = {"action": [4], "next_state": [5], "video": [6, 7], "value": [8]}
        found = []
        for part in parts:
            z = noise[:, :, frames[part]]
            found.append(z if part == "video" else z.transpose(1, 2).flatten(2))
        self.left = iter(found)

    def _next(self, shape: tuple[int, ...], like: Tensor, rng: Any) -> Tensor:
        noise = next(self.left)
        assert tuple(noise.shape) == tuple(shape)
        return noise.to(like)


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return load_record()


@pytest.fixture(scope="module")
def released(record: dict[str, Tensor], tmp_path_factory: Any) -> Path:
    """A checkpoint in the released layout; the file of weights."""
    folder = tmp_path_factory.mktemp("released")
    torch.save(state_of(record), folder / "Cosmos-Policy-LIBERO-Predict2-2B.pt")
    write_companions(record, folder)
    return folder / "Cosmos-Policy-LIBERO-Predict2-2B.pt"


def state_of(record: dict[str, Tensor]) -> dict[str, Tensor]:
    start = "weights/"
    return {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}


def write_companions(record: dict[str, Tensor], folder: Path) -> None:
    """Statistics and text embeddings, as they are released next to the weights."""
    start = "statistics/"
    rows = {k.removeprefix(start): v.tolist() for k, v in record.items() if k.startswith(start)}
    for kind in ("actions", "proprio"):
        rows |= {f"{kind}_mean": rows[f"{kind}_min"], f"{kind}_std": rows[f"{kind}_max"]}
        rows[f"{kind}_std"] = [0.1] * len(rows[f"{kind}_min"])
    (folder / "libero_dataset_statistics.json").write_text(json.dumps(rows))
    texts = {TASK: record["inputs/text"]}
    (folder / "libero_t5_embeddings.pkl").write_bytes(pickle.dumps(texts))


@pytest.fixture(scope="module")
def text(released: Path) -> Path:
    """The released embeddings as wamkit stores them."""
    out = released.with_name("text.safetensors")
    config = parse(tiny_spec("cosmos_policy.toml")).text_encoder
    store(config, embeddings(released.with_name("libero_t5_embeddings.pkl")), out)
    return out


@pytest.fixture(scope="module")
def folder(released: Path, text: Path, tmp_path_factory: Any) -> Path:
    """The imported policy, with the VAE that the record was made with."""
    place = tmp_path_factory.mktemp("imported")
    spec = parse(tiny_spec("cosmos_policy.toml"))
    vae = place / "vae.safetensors"
    save(build_seeded(spec, "vae", spec.vae.build, "cpu"), vae)
    return plan_import(released, None, small(text, f"vae.weights={vae}")).write(place / "policy")


def small(text: Path, *more: str) -> list[str]:
    """Options of an import at the sizes of the record."""
    return [*SMALL, f"text_encoder.embeddings_file={text}", *more]


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    with trusting_paths():
        return Policy.load(folder)


@pytest.fixture(scope="module")
def wide(policy: Policy) -> Policy:
    """The policy in float64, in which the outputs were recorded."""
    return to_float64(policy)


@pytest.fixture
def seen(record: dict[str, Tensor]) -> Observation:
    return Observation(
        {
            "wrist_image": record["inputs/wrist_image"].numpy(),
            "image": record["inputs/primary_image"].numpy(),
        },
        TASK,
        record["inputs/proprio"],
    )


def test_pixels_of_all_cameras_are_the_published_ones(
    policy: Policy, seen: Observation, record: dict[str, Tensor]
) -> None:
    pixels = (canvas_of(policy, seen) + 1) * 127.5
    expected = record["outputs/pixels"].permute(0, 3, 1, 2)[:, :, None]
    assert torch.equal(pixels.round().to(torch.uint8), expected)


@float64()
def test_latents_of_the_shared_clip_are_the_published_ones(
    wide: Policy, seen: Observation, record: dict[str, Tensor]
) -> None:
    inputs = inference_inputs(wide, seen)
    assert inputs.video is not None
    expected = record["outputs/clean"][:, :, [0, 2, 3]]
    same_values(inputs.video.z[:, :, :3], expected.to(inputs.video.z.dtype), 2e-6)


@float64()
def test_a_whole_run_gives_the_published_actions(
    wide: Policy, seen: Observation, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = Draws(monkeypatch, "wamkit.interfaces.paradigm")
    draws.give(record["inputs/noise"][0], PARTS)
    chunk = wide.act(seen)
    expected = record["outputs/actions"]
    assert float((chunk.values[0] - expected).abs().max()) < VERIFIED["run"]
    assert chunk.value is not None
    same_values(float(chunk.value[0] + 1) / 2, float(record["outputs/value"]), 1e-6)


@float64()
def test_predicted_images_are_the_published_ones(
    wide: Policy, seen: Observation, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = Draws(monkeypatch, "wamkit.interfaces.paradigm")
    draws.give(record["inputs/noise"][0], PARTS)
    imagined = wide.imagine(seen).views
    for view, name in (("wrist_image", "future_wrist_image"), ("image", "future_image")):
        pixels = ((imagined[view][0, :, 1] + 1) * 127.5).clamp(0, 255)
        error = pixels.to(torch.uint8).int() - record[f"outputs/{name}"].permute(2, 0, 1).int()
        assert int(error.abs().max()) <= 1


@pytest.fixture
def batch(record: dict[str, Tensor]) -> Batch:
    def images(view: str) -> Tensor:
        both = [record[f"inputs/train_{when}_{view}"] for when in "ab"]
        return torch.stack(both, 1).permute(0, 1, 4, 2, 3)

    def physical(name: str, kind: str) -> Tensor:
        low, high = (record[f"statistics/{kind}_{end}"] for end in ("min", "max"))
        return (record[f"inputs/{name}"].double() + 1) / 2 * (high - low) + low

    state = physical("train_proprio", "proprio")
    return Batch(
        Observation({"wrist_image": images("w"), "image": images("p")}, [TASK] * 3, state),
        physical("train_actions", "actions"),
        next_state=physical("train_next_proprio", "proprio"),
        value=record["inputs/train_value"],
    )


@torch.no_grad()
@float64()
def test_losses_of_every_kind_of_sample_are_the_published_ones(
    wide: Policy, batch: Batch, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = Draws(monkeypatch, "wamkit_conditional.paradigm")
    draws.give(record["inputs/train_noise"], PARTS)
    sigma = record["inputs/train_sigma"][:, 0].double()
    monkeypatch.setattr(NoiseSchedule, "sample", lambda *given: sigma / (1 + sigma))
    monkeypatch.setattr(wide.paradigm, "_kinds", lambda *given: torch.tensor([0, 1, 2]))
    inputs = training_inputs(wide, batch)
    noisy, _ = wide.paradigm.add_noise(inputs, wide.schedules, torch.Generator())
    assert noisy.video is not None
    clean = {
        "video": (noisy.video.sigma == 0)[:, 1:],
        "action": noisy.noisy("action").sigma == 0,
        "next_state": noisy.noisy("next_state").sigma == 0,
        "value": noisy.noisy("value").sigma == 0,
    }
    video = clean["video"]
    rows = [video[:, :1], video[:, :1], video[:, :2], clean["action"], clean["next_state"]]
    mask = torch.cat([*rows, video[:, 2:], clean["value"]], 1)
    differing = int((mask != record["outputs/train_mask"].bool()).sum())
    assert differing <= VERIFIED["clean_frames"]
    draws.give(record["inputs/train_noise"], PARTS)
    losses = wide.loss(batch)
    frames = record["outputs/train_loss_per_frame"]
    expected = {"action": frames[:, 4], "next_state": frames[:, 5], "value": frames[:, 8]}
    expected["video"] = frames[:, 6:8]
    for part, found in losses.parts.items():
        same_values(found.double(), expected[part].mean(), VERIFIED["loss"], scale=1.0)
    same_values(losses.total.double(), record["outputs/train_loss"], VERIFIED["loss"], scale=1.0)
    velocity = wide.model(noisy)
    data = record["outputs/train_x0"].double()
    noise, level = record["inputs/train_noise"].double(), sigma / (1 + sigma)
    predicted = record["outputs/train_predicted"].double()
    theirs = (data * (1 - wave(level)) + noise * wave(level) - predicted) / wave(level)
    ours = [velocity.take(part, noisy).double() for part in ("action", "next_state", "value")]
    action, state, value = (v.unflatten(2, (16, 4, 4)).transpose(1, 2) for v in ours)
    ours_whole = torch.cat([action, state, velocity.take("video", noisy).double(), value], 2)
    learned = ~record["outputs/train_mask"].bool()[:, 4:]
    error = ((ours_whole - theirs[:, :, 4:]).abs().amax((1, 3, 4)) * learned).max()
    assert float(error) < VERIFIED["network"], float(error)


def test_every_frame_sees_every_frame_as_in_the_published_attention_without_a_mask(
    wide: Policy,
) -> None:
    frames = {"context", "state", "target", "action", "next_state", "value"}
    sees: Any = wide.paradigm.sees
    hidden = [(query, key) for query in frames for key in frames - set(sees[query])]
    assert len(hidden) <= VERIFIED["mask"], hidden


def wave(level: Tensor) -> Tensor:
    return level[:, None, None, None, None]


@torch.no_grad()
@float64()
def test_future_and_value_of_an_action_are_the_published_ones(
    wide: Policy, seen: Observation, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = Draws(monkeypatch, "wamkit.interfaces.paradigm")
    paradigm: Any = wide.paradigm
    once = wide.schedules["video"]
    short = NoiseSchedule(once.config.model_copy(update={"steps": 1}), once.tokens)
    schedules = {**wide.schedules, "video": short}
    action = record["outputs/latent"][:, :, 4].flatten(1)[:, None].double()
    inputs = inference_inputs(wide, seen).put("action", action, 0.0)
    draws.give(record["inputs/noise"][1], ("video", "next_state", "value"))
    future = paradigm.predict_future(wide.model, inputs, schedules, torch.Generator())
    expected = record["outputs/planned_latent"].double()
    same_values(future.take("video").double(), expected[:, :, 6:8], 1e-5)
    same_values(future.take("next_state").flatten().double(), expected[:, :, 5].flatten(), 1e-5)
    draws.give(record["inputs/noise"][2], ("value",))
    value = paradigm.estimate_value(wide.model, future, wide.schedules, torch.Generator())
    same_values(float(value + 1) / 2, float(record["outputs/planned_value"]), 1e-5)


def test_levels_are_the_published_ones(policy: Policy, record: dict[str, Tensor]) -> None:
    for steps in (5, 10):
        theirs = record[f"outputs/levels_{steps}"]
        sampler = policy.schedules["action"].init_sampler(torch.zeros(1, 1), steps=steps)
        expected = (theirs / (1 + theirs)).tolist()
        assert list(sampler.levels) == pytest.approx(expected, abs=VERIFIED["levels"])
    drawn = policy.schedules["action"].sample(
        (200_000,), torch.zeros(1), torch.Generator().manual_seed(0)
    )
    points = torch.arange(1, 100).double() / 100
    error = torch.quantile(drawn.double(), points) - record["outputs/quantiles"]
    assert float(error.abs().max()) < 0.005


# The importer ------------------------------------------------------------------------------------


def test_a_folder_of_dcp_gives_the_same_policy(
    record: dict[str, Tensor], released: Path, text: Path, tmp_path: Path
) -> None:
    home = tmp_path / "Cosmos-Policy-LIBERO"
    writer = dcp.FileSystemWriter(home / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state_of(record), storage_writer=writer, no_dist=True)
    write_companions(record, home)
    weights = [
        LazyTensors(plan_import(source, None, small(text)).weights["backbone"])
        for source in (home, released)
    ]
    assert set(weights[0]) == set(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("suite", "example"),
    [
        ("libero", "cosmos_policy.toml"),
        ("robocasa", "cosmos_policy_robocasa.toml"),
        ("aloha", "cosmos_policy_aloha.toml"),
    ],
)
def test_the_examples_are_the_specs_that_are_imported(suite: str, example: str) -> None:
    ours, theirs = parse(read(EXAMPLES / example)).dump(), parse(SPECS[suite]).dump()
    for part in ("video", "action"):
        tables = [spec["schedules"].pop(part) for spec in (ours, theirs)]
        values = [
            (t.pop("sampling_args")["scale"], t.pop("loss_weight"), t.pop("sigma_max"))
            for t in tables
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-12)
        assert tables[0] == tables[1]
    assert ours == theirs


@pytest.mark.parametrize("suite", ["libero", "robocasa", "aloha"])
def test_every_published_tensor_has_its_place(
    suite: str, record: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, file = "published/", tmp_path / f"Cosmos-Policy-{suite}-Predict2-2B.pt"
    file.touch()
    names = [key.removeprefix(start) for key in record if key.startswith(start)]
    held = {
        name: Entry(file, name, tuple(record[start + key].tolist()), "F32")
        for key in names
        for name in [key.replace("s.0.", f"s.{i}.", 1) for i in range(28 if "s.0." in key else 1)]
    }
    monkeypatch.setattr(Source, "_entries", lambda *_: held)
    plan = plan_import(file, None, ["text_encoder.name=bytes", "text_encoder.embedding=1024"])
    found = plan.weights["backbone"]
    used = {entry.name for entry in found.values()}
    left_out = {name for names in plan.dropped.values() for name in names}
    assert used | left_out == set(held) and not used & left_out
    assert len(used) == 567 and len(left_out) == 4 + 3
    assert sum(prod(entry.shape) for entry in found.values()) == 1_956_413_440


def test_a_checkpoint_without_a_name_asks_for_its_robot(
    released: Path, text: Path, tmp_path: Path
) -> None:
    shutil.copy(released, tmp_path / "weights.pt")
    statistics = released.with_name("libero_dataset_statistics.json")
    shutil.copy(statistics, tmp_path / "dataset_statistics.json")
    file = tmp_path / "weights.pt"
    with pytest.raises(WamkitError, match="whose robot") as refused:
        plan_import(file)
    assert "importer.suite=libero" in refused.value.hint
    plan = plan_import(file, None, small(text, "importer.suite=libero"))
    assert plan.imported.system == "Cosmos Policy (LIBERO)"


def test_the_base_model_is_no_cosmos_policy(released: Path, tmp_path: Path) -> None:
    shutil.copy(released, tmp_path / "model-480p-16fps.pt")
    with pytest.raises(WamkitError, match="no checkpoint that an importer recognizes"):
        plan_import(tmp_path / "model-480p-16fps.pt")


def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(
    folder: Path, tmp_path: Path
) -> None:
    with trusting_paths():
        expect_acts_and_learns(Policy.load(folder), tmp_path, prompt=TASK)


def test_damaged_statistics_are_refused_clearly(released: Path, text: Path, tmp_path: Path) -> None:
    expect_clear_errors(released, ("libero_dataset_statistics.json",), tmp_path, small(text))


def test_a_robot_that_is_chosen_by_its_actions_is_noted(
    released: Path, text: Path, tmp_path: Path
) -> None:
    shutil.copy(released, tmp_path / "Cosmos-Policy.pt")
    rows = {f"{kind}_{row}": [float(i)] * 14 for kind in ("actions", "proprio")
            for i, row in enumerate(("min", "mean", "max", "std"))}  # fmt: skip
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(rows))
    read = CosmosPolicy().read(Source(tmp_path / "Cosmos-Policy.pt"))
    assert read.system == "Cosmos Policy (ALOHA)"
    assert any("control_hz = 25 and kind = absolute are guesses" in note for note in read.notes)

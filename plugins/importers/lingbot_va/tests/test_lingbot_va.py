"""LingBot-VA's own code and an imported checkpoint compute the same, from the same weights.

`data/lingbot_va_tiny.safetensors` was recorded from the published code by
`data/make_lingbot_va_tiny.py`; `verified.toml` states the largest differences, which are measured
here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wamkit_autoregressive.drawn_blocks as drawn_blocks
import wamkit_autoregressive.paradigm as autoregressive
import wamkit_lingbot_va
from pixel_vae import PixelVAE, patterns, set_patterned_weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from wamkit_lingbot_va.robots import ROBOTS
from wamkit_lingbot_va.specs import spec_of

from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.source import Source
from wamkit.config.importing import read_verified
from wamkit.config.spec import parse, parse_part, read
from wamkit.errors import WamkitError
from wamkit.interfaces import paradigm as interface
from wamkit.interfaces.types import CLEAN, Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.importing import plan_import
from wamkit.policy.losses import vector_loss, video_loss
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import training_inputs
from wamkit.testing.imported import expect_acts_and_learns, expect_clear_errors
from wamkit.testing.parity import float64, to_float64
from wamkit.testing.recorded import part_of, read_record

RECORD = Path(__file__).parent / "data" / "lingbot_va_tiny.safetensors"
EXAMPLES = Path(__file__).parents[4] / "examples"
LIMIT = read_verified(wamkit_lingbot_va.__file__)
USED = [0, 1, 2, 28]
STEPS = ("schedules.video.steps=3", "schedules.action.steps=4")
TINY = (
    *(
        "backbone.variant=tiny",
        "vae.width=tiny",
        "dtype=float32",
        "paradigm.chunks=3",
        "paradigm.window=3",
        *STEPS,
    ),
    *("text_encoder.name=bytes", "text_encoder.max_length=512", "actions.chunk_size=8"),
    *("video.num_frames=9", "video.frame_stride=1"),
)
SIZES = {"libero": [[32, 32]] * 2, "robotwin": [[64, 64], [32, 32], [32, 32]]}
NAMES = {"libero": "lingbot-va-posttrain-libero-long", "robotwin": "lingbot-va-posttrain-robotwin"}


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    held = read_record(RECORD)
    return {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in held.items()}


def facts() -> dict[str, Any]:
    """What the record states besides tensors: published shapes, and the tiny config.json."""
    with safe_open(RECORD, framework="pt") as file:
        return {name: json.loads(text) for name, text in file.metadata().items()}


def released(record: dict[str, Tensor], folder: Path) -> Path:
    """A folder as diffusers writes it, and LingBot-VA releases it."""
    (folder / "transformer").mkdir(parents=True)
    weights = {k: v.bfloat16() for k, v in part_of(record, "weights/").items()}
    save_file(weights, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "WanTransformer3DModel", **facts()["config"]}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    return folder


def options(robot: str) -> tuple[str, ...]:
    sizes = SIZES[robot]
    return (*TINY, *(f"cameras.views.{i}.size={size}" for i, size in enumerate(sizes)))


@pytest.fixture(scope="module")
def policies(record: dict[str, Tensor], tmp_path_factory: Any) -> dict[str, Policy]:
    """Imported policies, in float64."""
    found = {}
    for robot, name in NAMES.items():
        folder = tmp_path_factory.mktemp("released")
        plan = plan_import(released(record, folder / name), None, options(robot))
        policy = Policy.load(plan.write(folder / "policy", random_parts=True))
        found[robot] = to_float64(policy)
        found[robot].vae = PixelVAE()
    return found


def within(found: Tensor, expected: Tensor, limit: float) -> None:
    """The largest difference is what `verified.toml` states, or less."""
    assert found.shape == expected.shape
    apart = float((found.double() - expected.double()).abs().max())
    assert apart <= limit, f"differs by {apart:.1e}, stated are {limit:.0e}"


def vectors(x: Tensor) -> Tensor:
    """Actions [B, A, F, K, 1] as theirs are laid out, to [B, F * K, A]."""
    return x[..., 0].permute(0, 2, 3, 1).flatten(1, 2)


@pytest.fixture
def training(policies: dict[str, Policy], record: dict[str, Tensor]) -> Iterator[Any]:
    """A policy of the record's channels, and the recorded sample with noise added to it."""
    policy = policies["libero"]
    raw = policy.spec.dump()
    raw["action_head"]["channel_map"] = USED
    raw["actions"]["groups"] = [{"name": "arm", "size": 4, "normalization": "quantile"}]
    other = to_float64(Policy.from_spec(parse(raw)))
    other.backbone.load_state_dict(policy.backbone.state_dict())  # type: ignore[attr-defined]
    other.action_head.load_state_dict(policy.action_head.state_dict())
    given = to_float64(part_of(record, "training/inputs/"))
    roles = ("context", *("target",) * 5)
    times = tuple(float(k) for k in range(6))
    clip = Frames(given["latents"], roles, times, (CLEAN,) * 6)
    action = NoisyVectors(vectors(given["actions"]), CLEAN)
    inputs = ModelInputs(padded(given["text"]), clip, action=action)
    noises = iter([vectors(given["noise_action"]), given["noise_video"], given["noise_clean"]])
    levels = iter([given["ids_action"], given["ids_video"]])
    clean = (given["ids_clean"].double() - 500 + 0.5) / 500
    uniform = iter([torch.zeros(2, 1), clean.expand(2, -1)])
    blocks = iter([torch.tensor(0.3), torch.tensor(0.0)])  # of 2 frames, in a window of 4
    with pytest.MonkeyPatch.context() as patch, float64():
        patch.setattr(drawn_blocks, "draw_uniform", lambda *_: next(blocks))
        patch.setattr(autoregressive, "draw_noise", lambda *_: next(noises))
        patch.setattr(autoregressive, "draw_uniform", lambda *_: next(uniform))
        patch.setattr(torch, "randint", lambda *_, **__: next(levels).expand(2, -1))
        yield other, *other.paradigm.add_noise(inputs, other.schedules, torch.Generator())


def padded(text: Tensor) -> Text:
    """Text tokens with zero vectors up to 512."""
    return Text(torch.nn.functional.pad(text, (0, 0, 0, 512 - text.shape[1])))


@torch.no_grad()
def test_the_training_pass_predicts_the_same_with_the_same_losses(
    training: Any, record: dict[str, Tensor]
) -> None:
    policy, noisy, target = training
    out = policy.model(noisy)
    theirs = part_of(record, "training/outputs/")
    within(out.video[:, :, :6], theirs["velocity_video"], LIMIT["network"])
    action = theirs["velocity_action"][:, USED, ..., None]
    within(out.action[:, :24], vectors(action), LIMIT["network"])
    every = torch.ones(2, 24, 4)
    within(video_loss(out.video, target["video"], None), theirs["loss_video"], LIMIT["loss"])
    within(vector_loss(out.action, target["action"], every), theirs["loss_action"], LIMIT["loss"])


def test_visibility_is_the_mask_of_training(
    policies: dict[str, Policy], record: dict[str, Tensor]
) -> None:
    paradigm: Any = policies["libero"].paradigm
    sees = paradigm.visibility(3, 4)
    rows: list[tuple[int, str]] = []  # sample and role of each token, in the order of theirs
    for role, per_frame in (("target", 2), ("seen", 2), ("action", 4), ("did", 4)):
        for sample in range(2):
            rows += [(sample, f"{role}.{f // 2}") for f in range(6) for _ in range(per_frame)]
    mask = [[a == b and key in sees[query] for b, key in rows] for a, query in rows]
    assert torch.equal(torch.tensor(mask), record["training/outputs/mask"].bool())


def test_levels_and_loss_weights_are_those_of_training(
    policies: dict[str, Policy], record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.arange(1000).double())
    for part in ("video", "action"):
        flow = policies["libero"].schedules[part]
        levels = flow.sample((1000,), torch.zeros(()), torch.Generator())
        within(levels, record[f"training/outputs/levels_{part}"], LIMIT["levels"])
        within(flow.weight(levels), record[f"training/outputs/weights_{part}"], LIMIT["loss"])


@float64()
def test_actions_of_a_sample_are_normalized_and_begin_with_zeros(
    policies: dict[str, Policy], record: dict[str, Tensor]
) -> None:
    policy = policies["libero"]
    images = torch.zeros(1, policy.spec.num_images, 3, 32, 32)
    seen = Observation(dict.fromkeys(ROBOTS["libero"].views, images), ["lift"])
    actions = record["normalization/inputs/actions"].double()[None]
    found = training_inputs(policy, Batch(seen, actions)).noisy("action").x
    expected = vectors(record["normalization/outputs/actions"][None])
    within(found, expected, LIMIT["normalization"])


@torch.no_grad()
@float64()
def test_an_episode_is_encoded_piece_by_piece(record: dict[str, Tensor]) -> None:
    vae = to_float64(parse_part("vae", {"name": "wan2.2", "width": "tiny"}).build())  # type: ignore[attr-defined]
    set_patterned_weights(vae)
    images = patterns(13, 0, 32, 32).transpose(0, 1)[None].double() / 127.5 - 1
    found, past = [], None
    for piece in images.split((1, 4, 8), 2):
        z, past = vae.encode_next(piece, past)
        mean, std = vae._latent_constants(z)
        found.append(z * std + mean)
    within(torch.cat(found, 2), record["vae/outputs/latents"], LIMIT["vae"])


@torch.no_grad()
@pytest.mark.parametrize("robot", NAMES)
def test_an_episode_gives_the_same_actions(
    robot: str,
    policies: dict[str, Policy],
    record: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = policies[robot]
    given = to_float64(part_of(record, f"{robot}/inputs/"))
    theirs = part_of(record, f"{robot}/outputs/")
    noises = []
    for k in range(len(theirs)):
        action = vectors(given[f"noise_action.{k}"])
        lead = 4 if k == 0 else 0  # of the frame that was observed
        noises += [action[:, lead:], given[f"noise_video.{k}"][:, :, lead // 4 :]]
    draws = iter(noises)
    monkeypatch.setattr(interface, "draw_noise", lambda *_: next(draws))
    prompts = {None: padded(given["prompt"]), "{instruction}": padded(given["negative"])}
    monkeypatch.setattr(
        policy.text_embeddings, "encode", lambda _, template=None: prompts[template]
    )
    session, at = policy.session(), 0
    with float64():
        for k in range(len(theirs)):
            images = slice(at, at + session.num_images)
            at = images.stop
            views = {
                name: patterns(images.stop, i)[None, images]
                for i, name in enumerate(ROBOTS[robot].views)
            }
            chunk = session.act(Observation(views, ["record"]), seed=0)
            expected = theirs[f"action.{k}"].permute(1, 2, 0).flatten(0, 1)
            within(chunk.values[0], expected[4 if k == 0 else 0 :], LIMIT["run"])


def test_every_tensor_of_a_release_is_accounted_for(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    plan = plan_import(released(record, tmp_path / NAMES["libero"]), None, options("libero"))
    (dropped,) = plan.dropped.values()
    names = {entry.name for part in plan.weights.values() for entry in part.values()}
    assert names | set(dropped) == set(part_of(record, "weights/"))
    assert all("condition_embedder_action.text_embedder" in name for name in dropped)
    assert plan.missing == ("vae", "text_encoder")


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_tensor_of_the_published_size_has_its_place(
    robot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = facts()["published"]  # of the authors' own class at its published size
    first = {k: v for k, v in shapes.items() if k.startswith("blocks.0.")}
    for layer in range(1, 30):
        shapes |= {re.sub("^blocks.0", f"blocks.{layer}", k): v for k, v in first.items()}
    folder = tmp_path / f"lingbot-va-posttrain-{robot}"
    folder.mkdir()
    held = {k: Entry(folder / "x", k, tuple(v), "BF16") for k, v in shapes.items()}
    monkeypatch.setattr(Source, "_entries", lambda *_: held)
    monkeypatch.setattr("wamkit.checkpoints.source.weight_files", lambda *_: [folder / "x"])
    plan = plan_import(folder, None, ["text_encoder.name=bytes", "text_encoder.embedding=4096"])
    used = {entry.name for entries in plan.weights.values() for entry in entries.values()}
    left_out = {name for names in plan.dropped.values() for name in names}
    assert used | left_out == set(shapes) and not used & left_out
    assert len(left_out) == 4 and all("action.text_embedder." in name for name in left_out)


def test_a_checkpoint_whose_name_tells_no_robot_asks_for_it(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = released(record, tmp_path / "lingbot-va-base")
    with pytest.raises(WamkitError, match="nothing tells which robot"):
        plan_import(folder)
    robot = ("importer.robot=robotwin", *options("robotwin"))
    assert plan_import(folder, None, robot).imported.system == "LingBot-VA (robotwin)"


def lerobot(record: dict[str, Tensor], folder: Path, **changes: Any) -> Path:
    """Write a policy folder of LeRobot; `changes` are of its config.json."""
    folder.mkdir(exist_ok=True)
    weights = {f"transformer.{k}": v for k, v in part_of(record, "weights/").items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(LEROBOT | facts()["config"] | changes))
    state = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    steps = {"name": "policy_postprocessor", "steps": [{"state_file": state}]}
    (folder / "policy_postprocessor.json").write_text(json.dumps(steps))
    rows = {"q01": -torch.arange(4.0) - 1, "q99": torch.arange(4.0) + 2}
    save_file({f"action.{k}": v for k, v in rows.items()}, folder / state)
    return folder


def test_a_policy_folder_of_lerobot_is_read_with_its_statistics(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    changes = {"dtype": "float32", "max_sequence_length": 300}
    lerobot(record, tmp_path, **changes)
    spec = wamkit_lingbot_va.LingBotVA().read(Source(tmp_path)).spec
    assert (spec["dtype"], spec["text_encoder"]["max_length"]) == ("float32", 300)
    plan = plan_import(tmp_path, None, options("libero"))
    assert plan.statistics["action"].q99 == (2.0, 3.0, 4.0, 5.0)
    assert plan.spec.action_head.channel_map == (0, 1, 2, 28)  # type: ignore[attr-defined]
    assert plan.spec.schedules.action.steps == 4 and len(plan.weights) == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"video_exec_step": 2}, "video_exec_step = 2, expected -1"),
        ({"action_guidance_scale": 2.0}, "action_guidance_scale = 2.0"),
        ({"camera_layout": "grid"}, "camera_layout = 'grid'"),
        ({"dtype": "float16"}, "dtype = 'float16'"),
        ({"n_obs_steps": 2}, "n_obs_steps = 2"),
        ({"normalization_mapping": {"ACTION": "MIN_MAX"}}, "normalization_mapping = "),
        ({"cross_attn_norm": False}, "cross_attn_norm = False, expected True"),
        ({"frame_chunk_size": 0}, "frame_chunk_size = 0, expected a whole number"),
    ],
)
def test_a_setting_of_lerobot_with_another_value_than_here_is_refused_by_name(
    record: dict[str, Tensor], tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(WamkitError, match=match):
        plan_import(lerobot(record, tmp_path, **changes), None, options("libero"))


LEROBOT = {
    "type": "lingbot_va",
    "obs_cam_keys": ["observation.images.image", "observation.images.image2"],
    "image_hflip": True,
    "camera_layout": "width_concat",
    "height": 32,
    "width": 32,
    "action_per_frame": 4,
    "frame_chunk_size": 2,
    "attn_window": 6,
    "num_inference_steps": 3,
    "action_num_inference_steps": 4,
    "guidance_scale": 5.0,
    "snr_shift": 5.0,
    "action_snr_shift": 0.05,
    "used_action_channel_ids": USED,
}
"""The keys of LeRobot's `config.json` that are read, without the sizes of the network."""


@pytest.mark.parametrize(
    ("robot", "example"), [("libero", "lingbot_va"), ("robotwin", "lingbot_va_robotwin")]
)
def test_the_examples_are_the_imported_specs(robot: str, example: str) -> None:
    assert parse(read(EXAMPLES / f"{example}.toml")) == parse(spec_of(ROBOTS[robot]))


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_robot_has_statistics_and_a_channel_for_each_value(robot: str) -> None:
    facts = ROBOTS[robot]
    size = sum(count for _, count, _ in facts.groups)
    assert len(facts.channel_map) == len(facts.q01) == len(facts.q99) == size
    assert parse(spec_of(facts)).actions.size == size


@pytest.mark.parametrize("robot", NAMES)
def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(
    record: dict[str, Tensor], robot: str, tmp_path: Path
) -> None:
    plan = plan_import(released(record, tmp_path / NAMES[robot]), None, options(robot))
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    expect_acts_and_learns(policy, tmp_path / "again")


def test_a_policy_of_lerobot_acts_the_same_once_saved_and_learns_on(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    plan = plan_import(lerobot(record, tmp_path / "lerobot"), None, options("libero"))
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    expect_acts_and_learns(policy, tmp_path / "again")


def test_damaged_settings_are_refused_clearly(record: dict[str, Tensor], tmp_path: Path) -> None:
    folder = released(record, tmp_path / NAMES["libero"])
    files = ("transformer/config.json",)
    expect_clear_errors(folder, files, tmp_path / "copies", options("libero"))


def test_damaged_settings_of_lerobot_are_refused_clearly(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = lerobot(record, tmp_path / "lerobot")
    files = ("config.json", "policy_postprocessor.json")
    expect_clear_errors(folder, files, tmp_path / "copies", options("libero"))

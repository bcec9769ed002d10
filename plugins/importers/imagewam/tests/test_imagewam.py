"""ImageWAM's own code and wamkit compute the same, from a checkpoint in the published layout.

`data/imagewam_tiny.safetensors` was recorded from it by `data/make_imagewam_tiny.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from wamkit_imagewam import ImageWAM
from wamkit_imagewam.settings import from_settings
from wamkit_imagewam.specs import LIBERO, ROBOTWIN

from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.checkpoints.robot_run import SCALING
from wamkit.checkpoints.source import Source
from wamkit.config.cameras import CameraConfig
from wamkit.config.robot import Scaling
from wamkit.config.spec import parse, read
from wamkit.engine.passes import PassRunner
from wamkit.errors import WamkitError
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import DenoisingTarget, Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.importing import plan_import
from wamkit.policy.losses import vector_loss, video_loss
from wamkit.policy.normalization import Normalizer, Statistics
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.imported import expect_acts_and_learns, expect_clear_errors
from wamkit.testing.parity import float64, same_values, to_float64
from wamkit.testing.recorded import act_with_noise, read_record

DATA = Path(__file__).parent / "data"
ALIASES = "mixtures.video."
EXAMPLES = Path(__file__).parents[4] / "examples"
SPECS = {"klein-4b": "image_wam_4b.toml", "klein-9b": "image_wam_9b.toml"}
TINY = ("dtype=float32", "vae.width=tiny", "text_encoder.name=bytes", "text_encoder.max_length=96")
SETTINGS = {
    "model": {
        "_target_": "imagewam.runtime.create_imagewam_flux2_klein",
        "video_scheduler": {"train_shift": 5.0, "infer_shift": 5.0},
        "action_scheduler": {"train_shift": 5.0, "infer_shift": 5.0},
        "loss": {"lambda_video": 0.5, "lambda_action": 1.0},
        "flux2_lora_config": {"enabled": False, "rank": 2, "alpha": 2.0},
        "pack_proprio_after_text": True,
    },
    "data": {
        "train": {
            "shape_meta": {
                "images": [
                    {"key": name, "raw_shape": [3, 40, 40], "shape": [3, 32, 32]}
                    for name in ("image", "wrist_image")
                ],
                "action": [{"key": "default", "raw_shape": 4, "shape": 4}],
                "state": [{"key": "default", "raw_shape": 3, "shape": 3}],
            },
            "num_frames": 7,
            "concat_multi_camera": "horizontal",
            "processor": {"norm_default_mode": "min/max"},
        }
    },
    "eval_num_inference_steps": 4,
    "mixed_precision": "no",
}


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return read_record(DATA / "imagewam_tiny.safetensors")


def statistics() -> Any:
    with safe_open(DATA / "imagewam_tiny.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["statistics"])


def payload(record: dict[str, Tensor]) -> dict[str, Any]:
    """A `model.pt`: every block of the image network stands there under two names."""
    mot = {k[len("weights/mot.") :]: v for k, v in record.items() if k[:12] == "weights/mot."}
    start = "mixtures.video.transformer."
    for name in list(mot):
        if name.startswith((f"{start}double_blocks.", f"{start}single_blocks.")):
            mot[name.replace("transformer.", "", 1)] = mot[name]
    encoder = {k: record[f"weights/proprio_encoder.{k}"] for k in ("weight", "bias")}
    return {"mot": mot, "proprio_encoder": encoder, "step": 3, "torch_dtype": "torch.bfloat16"}


def written(content: dict[str, Any], folder: Path) -> Path:
    """A folder as it is released; the file of weights in it."""
    torch.save(content, folder / "model.pt")
    (folder / "dataset_stats.json").write_text(json.dumps(statistics()))
    (folder / "train_config.yaml").write_text(json.dumps(SETTINGS))
    return folder / "model.pt"


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], import_released: Any, tmp_path_factory: Any) -> Policy:
    """The policy that an import of the released folder gives."""
    folder = tmp_path_factory.mktemp("released")
    written(payload(record), folder)
    return import_released(folder, TINY)


@pytest.fixture(scope="module")
def wide(policy: Policy) -> Policy:
    """The policy in float64, in which the record was made."""
    return to_float64(policy)


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max())


def packed(frames: Tensor) -> Tensor:
    """Latents [B, C, 1, h, w] as the published code packs them, [B, h w, C]."""
    return frames[:, :, 0].flatten(2).transpose(1, 2)


@float64()
def inputs_of(wide: Policy, record: dict[str, Tensor]) -> tuple[ModelInputs, Tensor]:
    """The recorded training sample as inputs, and its clean target [B, C, 1, h, w]."""
    given = {k[7:]: to_float64(v) for k, v in record.items() if k.startswith("inputs/")}
    z = wide.vae.encode(given["pixels"].double() / 127.5 - 1)
    video, action = (given[f"timestep_{part}"] / 1000 for part in ("video", "action"))
    noise = given["noise_video"].unflatten(1, z.shape[3:]).movedim(-1, 1)[:, :, None]
    noisy = wide.schedules["video"].add(z[:, :, 1:], noise, video)
    levels = torch.stack([video, video], 1)  # the reference has the level of the target
    clip = Frames(torch.cat([z[:, :, :1], noisy], 2), ("context", "target"), (0.0, 1.0), levels)
    actions = wide.schedules["action"].add(given["actions"], given["noise_action"], action)
    inputs = ModelInputs(
        text=Text(given["text"], given["text_mask"], follows=True),
        video=clip,
        action=NoisyVectors(actions, action),
        state=given["proprio"],
    )
    return wide.action_head.prepare(inputs), z[:, :, 1:]


@torch.no_grad()
@float64()
def test_the_training_pass_predicts_the_published_velocities(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    inputs, _ = inputs_of(wide, record)
    found = wide.model(inputs)
    assert found.video is not None and found.action is not None
    limit = ImageWAM.verified["network"]
    assert off(packed(found.video[:, :, 1:]), record["outputs/velocity_video"]) <= limit
    assert off(found.action, record["outputs/velocity_action"]) <= limit


@float64()
def test_the_mask_is_the_published_one(wide: Policy, record: dict[str, Tensor]) -> None:
    inputs, _ = inputs_of(wide, record)
    head: Any = wide.action_head
    assert inputs.video is not None and inputs.text.whole.valid is not None
    streams = embed_video(PassRunner(), wide.backbone, inputs.video, inputs.text).streams
    roles = [s.role for stream in streams for s in stream.segments for _ in range(s.length)]
    roles += [role for group in head.token_groups(inputs, ()) for role in group.roles]
    sees = wide.paradigm.sees
    mask = torch.tensor([[key in sees[query] for key in roles] for query in roles])
    real = torch.ones(2, len(roles), dtype=torch.bool)
    real[:, : inputs.text.length] = inputs.text.whole.valid
    assert torch.equal(mask & real[:, None], record["outputs/mask"].bool())


@torch.no_grad()
@float64()
def test_losses_and_their_weights_are_the_published_ones(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    inputs, clean = inputs_of(wide, record)
    given = {k[7:]: to_float64(v) for k, v in record.items() if k.startswith("inputs/")}
    out, flows = wide.model(inputs), wide.schedules
    assert out.video is not None and out.action is not None and inputs.action is not None
    levels = {part: given[f"timestep_{part}"] / 1000 for part in ("video", "action")}
    weights = {part: flows[part].weight(levels[part]) for part in levels}
    for part, weight in weights.items():
        assert off(weight, record[f"outputs/weight_{part}"]) <= ImageWAM.verified["levels"]
    noise = given["noise_video"].unflatten(1, clean.shape[3:]).movedim(-1, 1)[:, :, None]
    target = DenoisingTarget(flows["video"].velocity(clean, noise), weights["video"][:, None], (1,))
    action = DenoisingTarget(
        flows["action"].velocity(given["actions"], given["noise_action"]), weights["action"]
    )
    real = ~(given["step_is_pad"][..., None] | given["dim_is_pad"][:, None])
    parts = {
        "video": video_loss(out.video, target, None),
        "action": vector_loss(out.action, action, real.double()),
    }
    total = torch.zeros(())
    for part, loss in parts.items():
        weighted = loss * flows[part].config.loss_weight
        assert off(weighted, record[f"outputs/loss_{part}"]) <= ImageWAM.verified["loss"]
        total = total + weighted
    assert off(total, record["outputs/loss"]) <= ImageWAM.verified["loss"]


@float64()
def test_levels_of_sampling_are_the_published_ones(wide: Policy, record: dict[str, Tensor]) -> None:
    sampler = wide.schedules["action"].init_sampler(torch.zeros(1, 1))
    found = torch.tensor([*sampler.levels, 0.0])
    assert off(found, record["run/levels"]) <= ImageWAM.verified["levels"]


def observed(record: dict[str, Tensor]) -> Observation:
    images = {
        name: record[f"run/{name}"].permute(2, 0, 1)[None, None]
        for name in ("image", "wrist_image")
    }
    return Observation(images, "lift", record["run/state"][None])


def test_images_become_the_published_canvas(policy: Policy, record: dict[str, Tensor]) -> None:
    canvas = policy.cameras.canvas(observed(record).images)[0, :, 0]
    assert torch.equal(((canvas + 1) * 127.5).round().to(torch.uint8), record["run/canvas"])


@float64()
def test_a_run_from_images_gives_the_published_actions_in_physical_units(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    found = act_with_noise(wide, observed(record), [record["run/noise"]]).values[0]
    assert off(found, record["run/actions"]) <= ImageWAM.verified["run"]


# What the importer reads -----------------------------------------------------------------------


def test_every_tensor_of_the_released_file_is_accounted_for(
    policy: Policy, record: dict[str, Tensor], tmp_path: Path
) -> None:
    plan = plan_import(written(payload(record), tmp_path), None, TINY)
    (twice,) = plan.dropped.values()
    assert len(twice) == sum(".transformer." in k and "_blocks." in k for k in record)
    weights = sum(v.numel() for k, v in record.items() if k.startswith("weights/"))
    parts = (policy.backbone, policy.action_head)
    assert sum(p.numel() for part in parts for p in part.parameters()) == weights  # type: ignore[attr-defined]


START = "mixtures.video.transformer."
ADAPTED = ("double_blocks.0.img_attn.qkv", "double_blocks.1.txt_mlp.2", "single_blocks.0.linear1")


def with_lora(content: dict[str, Any]) -> dict[str, Tensor]:
    """Put adapters into a payload as `LoRALinear` names them; the merged weights by name."""
    mot, rng, merged = content["mot"], torch.Generator().manual_seed(6), {}
    for layer in ADAPTED:
        weight = mot[f"{START}{layer}.weight"]
        down, up = (torch.randn(n, generator=rng) for n in ((2, weight.shape[1]), (len(weight), 2)))
        merged[f"{START}{layer}.weight"] = weight + 3 * up @ down
        for prefix in (START, ALIASES):
            del mot[f"{prefix}{layer}.weight"]
            mot[f"{prefix}{layer}.base.weight"] = weight
            mot[f"{prefix}{layer}.lora_A"], mot[f"{prefix}{layer}.lora_B"] = down, up
    return merged


def scaled(folder: Path, alpha: float) -> None:
    """Settings of a run with adapters of rank 2."""
    file = folder / "train_config.yaml"
    settings = json.loads(file.read_text())
    settings["model"]["flux2_lora_config"] |= {"enabled": True, "alpha": alpha}
    file.write_text(json.dumps(settings))


def expect_merged(policy: Policy, record: dict[str, Tensor], merged: dict[str, Tensor]) -> None:
    """The backbone has the merged weights, and all others unchanged."""
    expected = payload(record)
    expected["mot"] |= merged
    state = {k.removeprefix(START): v for k, v in expected["mot"].items() if k.startswith(START)}
    backbone: Any = policy.backbone
    ours = backbone.state_dict()
    qkv = torch.cat([ours[f"transformer_blocks.0.attn.to_{x}.weight"] for x in "qkv"])
    same_values(qkv, state["double_blocks.0.img_attn.qkv.weight"], 4e-7)
    pairs = {
        "transformer_blocks.1.ff_context.linear_out.weight": "double_blocks.1.txt_mlp.2.weight",
        "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight": "single_blocks.0.linear1.weight",
        "single_transformer_blocks.1.attn.to_out.weight": "single_blocks.1.linear2.weight",
    }
    for name, theirs in pairs.items():
        same_values(ours[name], state[theirs], 4e-7)


def test_lora_that_was_never_merged_is_merged_by_alpha_and_rank(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    content = payload(record)
    merged = with_lora(content)
    written(content, tmp_path)
    scaled(tmp_path, 6.0)
    plan = plan_import(tmp_path, None, TINY)
    expect_merged(Policy.load(plan.write(tmp_path / "p", random_parts=True)), record, merged)


@pytest.mark.parametrize("stated", [{}, {"alpha": 6.0}, {"rank": 2}])
def test_a_scale_of_the_lora_that_no_settings_state_is_asked_for(
    record: dict[str, Tensor], tmp_path: Path, stated: dict[str, float]
) -> None:
    content = payload(record)
    merged = with_lora(content)
    written(content, tmp_path)
    settings: Any = json.loads(json.dumps(SETTINGS))
    settings["model"]["flux2_lora_config"] = stated
    (tmp_path / "train_config.yaml").write_text(json.dumps(settings))
    with pytest.raises(WamkitError, match="scale") as found:
        plan_import(tmp_path, None, TINY)
    assert "--set backbone.lora_scale=" in found.value.hint
    plan = plan_import(tmp_path, None, [*TINY, "backbone.lora_scale=3"])
    expect_merged(Policy.load(plan.write(tmp_path / "p", random_parts=True)), record, merged)


def test_merged_lora_is_read_though_the_second_names_are_not_merged(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    content = payload(record)
    merged = with_lora(content)
    for layer in ADAPTED:
        for end in (".base.weight", ".lora_A", ".lora_B"):
            del content["mot"][f"{START}{layer}{end}"]
    content["mot"] |= merged
    content |= {"checkpoint_format": "lora_merged", "save_trainable_only": False}
    plan = plan_import(written(content, tmp_path), None, TINY)
    expect_merged(Policy.load(plan.write(tmp_path / "p", random_parts=True)), record, merged)


def test_trained_tensors_alone_are_put_into_the_image_network_they_were_trained_in(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    content = payload(record)
    base = {k.removeprefix(START): v for k, v in content["mot"].items() if k.startswith(START)}
    merged = with_lora(content)
    content["mot"] = {
        k: v for k, v in content["mot"].items() if ("lora_" in k and START in k) or ".action." in k
    }
    content["checkpoint_format"] = "trainable_only"
    (released := tmp_path / "released").mkdir()
    written(content, released)
    scaled(released, 6.0)
    save_file(base, tmp_path / "flux.safetensors")
    known = ("backbone.mlp_dim=48", "backbone.text_width=16")
    with pytest.raises(WamkitError, match="does not hold every part") as found:
        plan_import(released, None, (*TINY, *known)).write(tmp_path / "p")
    assert "--set backbone.weights=hf:black-forest-labs" in found.value.hint
    named = f"backbone.weights={tmp_path / 'flux.safetensors'}"
    plan = plan_import(released, None, (*TINY, *known, named))
    expect_merged(Policy.load(plan.write(tmp_path / "p", random_parts=True)), record, merged)


@pytest.mark.parametrize("mode", ["min/max", "q01/q99", "z-score"])
def test_statistics_normalize_as_the_published_code(mode: str) -> None:
    table = {k.removeprefix("global_"): v for k, v in statistics()["state"]["default"].items()}
    rows: dict[str, Any] = {k: torch.tensor(v, dtype=torch.float64) for k, v in table.items()}
    rule: Any = {"min/max": "min_max", "q01/q99": "quantile", "z-score": "mean_std"}[mode]
    found = Statistics.parse(table, "state")
    x = torch.tensor([[0.4, 0.25, -1.0], [1.5, 0.2500001, 0.1], [-9.0, 0.3, 20.0]]).double()
    if mode == "z-score":  # `SingleFieldLinearNormalizer`
        theirs = (x - rows["mean"]) / (rows["std"] + 1e-8)
    else:
        low, high = (rows[name] for name in (("q01", "q99") if "q" in mode else ("min", "max")))
        rest = high - low < 1e-4
        scale = 2 / torch.where(rest, 2.0, high - low)
        theirs = x * scale + torch.where(rest, -low, -1 - scale * low)
    ours = Normalizer([rule] * 3, found, 5.0, scaling=Scaling(**SCALING))
    same_values(ours.encode(x).double(), theirs.clamp(-5, 5), 2e-6)


def test_settings_that_cannot_be_composed_are_all_named() -> None:
    settings: Any = json.loads(json.dumps(SETTINGS))
    settings["data"]["train"]["concat_multi_camera"] = "vertical"
    settings["data"]["train"]["processor"]["action_state_transforms"] = [{"_target_": "x"}]
    settings["model"]["action_scheduler"]["infer_shift"] = 3.0
    with pytest.raises(WamkitError, match=r"(?s)action_state_transforms.*'vertical'.*action: an"):
        from_settings(HydraConfig(settings), LIBERO)


def test_the_settings_of_three_cameras_give_the_published_canvas() -> None:
    settings: Any = json.loads(json.dumps(SETTINGS))
    data = settings["data"]["train"]
    names = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    data["shape_meta"]["images"] = [{"key": name, "shape": [3, 240, 320]} for name in names]
    data |= {"concat_multi_camera": "robotwin", "robotwin_camera_layout": "compact_288x256"}
    found = CameraConfig.model_validate(from_settings(HydraConfig(settings), ROBOTWIN)["cameras"])
    assert found == CameraConfig.model_validate(ROBOTWIN["cameras"]) and found.canvas == (288, 256)


@pytest.mark.parametrize("size", ["klein-4b", "klein-9b"])
def test_at_published_size_every_name_and_shape_fits(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = json.loads((DATA / "imagewam_names.json").read_text())[size]
    shapes = {k.replace("*", str(i)): v for k, (count, v) in table.items() for i in range(count)}
    file = tmp_path / "model.pt"
    file.touch()
    held = {name: Entry(file, name, tuple(shape), "BF16") for name, shape in shapes.items()}
    monkeypatch.setattr(Source, "tensors", held)
    assert parse(ImageWAM().read(Source(file)).spec) == parse(read(EXAMPLES / SPECS[size]))
    plan = plan_import(file, None, ("text_encoder.name=bytes",))
    (twice,) = plan.dropped.values()
    stacked = sum("attn.qkv" in n for n in shapes if n not in twice)
    used = sum(len(entries) for entries in plan.weights.values())
    assert used == len(shapes) - len(twice) + 2 * stacked
    assert set(plan.missing) == {"vae", "text_encoder"}


def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(
    policy: Policy, tmp_path: Path
) -> None:
    expect_acts_and_learns(policy, tmp_path)


def test_damaged_settings_and_statistics_are_refused_clearly(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "released").mkdir()
    file = written(payload(record), tmp_path / "released")
    files = ("train_config.yaml", "dataset_stats.json")
    expect_clear_errors(file, files, tmp_path / "copies", TINY, every=2)

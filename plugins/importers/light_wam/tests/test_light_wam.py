"""A checkpoint of Light-WAM, imported, computes what the authors' code computes.

`data/light_wam_tiny.safetensors` was recorded from the published code by
`data/make_light_wam_tiny.py`. What is measured must be below `verified.toml`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from wamkit_light_wam import LightWAM
from wamkit_light_wam.specs import LIBERO, ROBOTWIN

from wamkit import WamkitError
from wamkit.checkpoints import safetensors as weights
from wamkit.checkpoints.files import Entry
from wamkit.config.spec import parse, read
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Text
from wamkit.policy.importing import plan_import
from wamkit.policy.losses import modality_loss
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import training_inputs
from wamkit.testing.imported import expect_acts_and_learns, expect_clear_errors
from wamkit.testing.parity import float64, to_float64
from wamkit.testing.recorded import RecordedNoise, part_of, read_record

RECORD = Path(__file__).parent / "data" / "light_wam_tiny.safetensors"
EXAMPLES = Path(__file__).parents[4] / "examples"
VIEWS = ("image", "wrist_image")
SIZES = (
    *("backbone.variant=tiny", "backbone.layers=3", "backbone.num_heads=2", "backbone.head_dim=12"),
    *("backbone.mlp_dim=24", "backbone.text_width=16", "vae.name=wan2.1", "vae.width=tiny"),
    *("text_encoder.name=bytes", "text_encoder.max_length=128", "dtype=float32"),
)
"""Parts as small as the record; other sizes are in the tensors and in `config.yaml`."""
SETTINGS: dict[str, Any] = {
    "mixed_precision": "no",
    "model": {
        "_target_": "lightwam.runtime.create_lightwam",
        "video_backbone_type": "wan2_1_t2v",
        "video_latent_spatial_downsample_factor": 2,
        "wam_adapter": {
            "use_wam_adapter": True,
            "adapter_scale": 1.0,
            "use_backbone_lora": True,
            "lora_rank": 2,
            "lora_alpha": 4.0,
        },
        "state_fusion_action_expert_config": {
            "token_pooling_type": "learned_query",
            "token_pooling_num_heads": 2,
            "feature_sources": ["adapted"],
        },
        "video_dit_config": {
            "video_attention_mask_mode": "first_frame_causal",
            "action_dim": "${data.train.processor.action_output_dim}",
        },
        "video_scheduler": {"train_shift": 5.0},
        "loss": {
            "action_temporal_weighting": {
                "enabled": True,
                "num_prefix_steps": 3,
                "prefix_weight": 1.0,
                "tail_weight": 0.0,
            }
        },
    },
    "data": {
        "train": {
            "shape_meta": {
                "images": [{"key": name, "shape": [3, 32, 32]} for name in VIEWS],
                "action": [{"key": "default", "shape": 4}],
                "state": [{"key": "default", "shape": 3}],
            },
            "num_frames": 9,
            "action_video_freq_ratio": 1,
            "concat_multi_camera": "horizontal",
            "context_len": 128,
            "processor": {
                "shape_meta": "${data.train.shape_meta}",
                "action_output_dim": 4,
                "norm_default_mode": "min/max",
                "delta_action_dim_mask": {"default": [True, True, True, False]},
            },
        }
    },
    "output_dir": "./runs/${now:%Y-%m-%d}",
}
"""`config.yaml` of a run."""


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return read_record(RECORD)


def checkpoint(
    record: Mapping[str, Tensor],
    folder: Path,
    settings: Mapping[str, Any] | None = SETTINGS,
    *,
    statistics: bool = True,
) -> Path:
    """Write a checkpoint in the published layout, settings and statistics next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("mot", "state_fusion_action_expert", "proprio_encoder")
    payload: dict[str, Any] = {n: part_of(record, f"weights/{n}.") for n in names}
    payload |= {"step": 7, "torch_dtype": "torch.bfloat16"}
    torch.save(payload, folder / "step_007.pt")
    if settings is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    if statistics:
        found: dict[str, Any] = {"action": {"default": {}}, "state": {"default": {}}}
        for key, value in part_of(record, "statistics/").items():
            kind, row = key.split("/")
            found[kind]["default"][f"global_{row}"] = value.tolist()
        (folder / "dataset_stats.json").write_text(json.dumps(found))
    return folder / "step_007.pt"


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    """The policy that an import makes, with the VAE and the text encoder of the record."""
    folder = tmp_path_factory.mktemp("light_wam")
    file = checkpoint(record, folder)
    seeded = Policy.from_spec(plan_import(file, None, SIZES).spec.model_copy(update={"seed": 0}))
    others = []
    for kind in ("vae", "text_encoder"):
        weights.save(getattr(seeded, kind), folder / f"{kind}.safetensors")
        others.append(f"{kind}.weights={json.dumps(str(folder / f'{kind}.safetensors'))}")
    plan = plan_import(file, None, (*SIZES, *others))
    return Policy.load(plan.write(folder / "policy"))


@pytest.fixture(scope="module")
def normalized(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    """The same policy in float64, for actions and states that are normalized already."""
    folder = tmp_path_factory.mktemp("light_wam")
    plan = plan_import(checkpoint(record, folder, statistics=False), None, SIZES)
    return to_float64(Policy.load(plan.write(folder / "policy", random_parts=True)))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max())


def test_every_tensor_of_the_checkpoint_is_used(
    record: dict[str, Tensor], policy: Policy, tmp_path: Path
) -> None:
    plan = plan_import(checkpoint(record, tmp_path), None, SIZES)
    assert plan.importer.name == "light_wam" and not plan.dropped
    assert policy.spec.backbone.lora_scale is None  # merged: the folder holds plain weights
    held = sum(v.numel() for v in part_of(record, "weights/").values())
    lora = sum(v.numel() for k, v in part_of(record, "weights/").items() if "lora_" in k)
    parts = (policy.backbone, policy.action_head)
    assert sum(p.numel() for part in parts for p in part.parameters()) == held - lora  # type: ignore[attr-defined]


def _trained(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any, Batch]:
    """The noisy inputs of the recorded training step, their targets, and the batch."""
    inputs = to_float64(part_of(record, "inputs/"))
    text = Text(inputs["text"])
    monkeypatch.setattr("wamkit.policy.preprocessing.embed_prompts", lambda *_, **__: text)
    levels = inputs["timestep_video"] / 1000
    video = policy.schedules["video"]
    video = type("Recorded", (type(video),), {"sample": lambda *_: levels})(video.config)
    schedules = {**policy.schedules, "video": video}
    blank = {view: torch.zeros(2, 9, 3, 32, 32, dtype=torch.uint8) for view in VIEWS}
    batch = Batch(
        Observation(blank, ("a", "b"), inputs["proprio"]),
        inputs["actions"],
        step_valid=~record["inputs/action_is_pad"].bool(),
        frame_valid=~record["inputs/image_is_pad"].bool(),
        latents=inputs["latents"],
    )
    noise = RecordedNoise([inputs["noise_video"][:, :, 1:], torch.zeros(2, 8, 4)])
    clean = training_inputs(policy, batch)
    noisy, goals = policy.paradigm.add_noise(clean, schedules, noise)
    return noisy, goals, batch


@torch.no_grad()
@float64()
def test_the_training_step_predicts_and_costs_the_same(
    normalized: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, goals, batch = _trained(normalized, record, monkeypatch)
    found = normalized.model(noisy)
    assert found.future is not None and noisy.action is not None
    errors = [difference(found.future[:, :, 1:], record["outputs/velocity_video"][:, :, 1:])]
    actions = noisy.action.x - noisy.action.sigma[..., None] * found.action
    errors.append(difference(actions, record["outputs/action"]))
    assert max(errors) <= LightWAM.verified["network"], errors
    losses = {
        part: modality_loss(normalized, part, goal, noisy, found, batch)
        for part, goal in goals.items()
    }
    errors = [difference(losses[p], record[f"outputs/loss_{p}"]) for p in ("video", "action")]
    assert max(errors) <= LightWAM.verified["loss"], errors


@float64()
def test_targets_see_what_the_published_mask_shows_them(
    normalized: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, _, _ = _trained(normalized, record, monkeypatch)
    sees = normalized.paradigm.sees
    assert isinstance(sees, dict)
    streams = embed_video(PassRunner(), normalized.backbone, noisy.future, noisy.text).streams
    roles = [s.role for st in streams for s in st.segments for _ in range(s.length)]
    mask = torch.tensor([[key in sees[query] for key in roles] for query in roles])
    frames = [i for i, role in enumerate(roles) if role in ("seen", "target")]
    assert torch.equal(mask[frames][:, frames], record["outputs/mask"].bool())
    # The frame that the action is read from sees nothing else, and no target sees it.
    assert set(sees["context"]) == {"text", "context"} and "context" not in sees["target"]


def test_levels_of_training_and_their_weights_are_the_published_ones(
    policy: Policy, record: dict[str, Tensor]
) -> None:
    flow = policy.schedules["video"]
    levels = flow.sample((32,), torch.zeros(1), torch.Generator().manual_seed(7))
    error = difference(levels, record["levels/timesteps"] / 1000)
    weight = difference(flow.weight(levels), record["levels/weights"])
    assert max(error, weight) <= LightWAM.verified["levels"], (error, weight)


@torch.no_grad()
def test_a_run_from_images_gives_the_published_actions_in_physical_units(
    policy: Policy, record: dict[str, Tensor]
) -> None:
    images = {
        view: image.permute(2, 0, 1)[None, None]
        for view, image in zip(VIEWS, record["run/images"], strict=True)
    }
    canvas = policy.cameras.canvas(images)
    assert difference(canvas[0, :, 0], record["run/canvas"][:, 0]) <= 1e-6
    observation = Observation(images, ("put the cup away",), record["run/state"][None])
    template = policy.spec.text_encoder.prompt_template
    text = policy.text_embeddings.encode(observation.prompt, template)
    assert text.valid is not None
    expected = record["run/context"][:, : text.tokens.shape[1]]
    assert difference(text.tokens[text.valid], expected[text.valid]) <= 1e-6
    chunk = policy.act(observation, seed=0)
    error = difference(chunk.values[0], record["run/action"])
    assert error <= LightWAM.verified["run"], error


@pytest.mark.parametrize(
    ("example", "base"), [("light_wam.toml", LIBERO), ("light_wam_robotwin.toml", ROBOTWIN)]
)
def test_the_examples_are_the_specs_of_the_released_files(
    example: str, base: dict[str, Any]
) -> None:
    assert parse(read(EXAMPLES / example)).dump() == parse(base).dump()


def _changed(name: str, value: Any) -> dict[str, Any]:
    """The settings with the value of a dotted name changed."""
    made = deepcopy(SETTINGS)
    *parents, last = name.split(".")
    table: Any = made
    for key in parents:
        table = table.setdefault(key, {})
    table[last] = value
    return made


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("model.wam_adapter.adapter_scale", 0.5, r"adapter_scale = 0\.5"),
        ("model.wam_adapter.lora_alpha", "${eval:1+1}", "is computed when it is read"),
        ("model.wam_adapter.lora_alpha", "${model.nothing}", "refers to nothing"),
        ("model.wam_adapter.lora_alpha", "${model.wam_adapter.lora_alpha}", "refers to itself"),
        ("model.video_backbone_type", "cosmos", "the backbone is 'cosmos'"),
        ("model.loss.action_temporal_weighting.tail_weight", 0.5, "weights later actions by 0.5"),
        ("data.train.processor.norm_default_mode", "0/1", "values are normalized by '0/1'"),
        ("data.train.concat_multi_camera", "vertical", "cameras are arranged as 'vertical'"),
    ],
)
def test_settings_that_are_not_read_are_named(
    name: str, value: Any, match: str, record: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(WamkitError, match=match):
        plan_import(checkpoint(record, tmp_path, _changed(name, value)), None, SIZES)


def test_without_settings_the_scale_of_the_lora_is_asked_for(
    record: dict[str, Tensor], tmp_path: Path, policy: Policy
) -> None:
    file = checkpoint(record, tmp_path, None)
    sizes = ("importer.release=libero", *SIZES, "action_head.num_heads=2", "state.size=3")
    groups = 'actions.groups=[{name="arm",size=4}]'
    with pytest.raises(WamkitError, match="nothing states its scale") as error:
        plan_import(file, None, (*sizes, groups))
    assert "--set backbone.lora_scale=VALUE" in error.value.hint
    plan = plan_import(file, None, (*sizes, groups, "backbone.lora_scale=2"))
    again = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    ours, theirs = policy.backbone.state_dict(), again.backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_reference_stands_for_the_value_it_names(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    alpha = _changed("model.wam_adapter.lora_alpha", "${model.wam_adapter.lora_rank}")
    spec = plan_import(checkpoint(record, tmp_path, alpha), None, SIZES).spec
    assert spec.backbone.lora_scale == 1.0


class _Headers:
    """A checkpoint of which only the names and shapes are known."""

    def __init__(self, _: str) -> None:
        self.path = self.origin = "step_060000.pt"
        self.place = Path(self.path)
        shapes = json.loads((RECORD.parent / "light_wam_names.json").read_text())
        self.tensors = {
            made: Entry(self.place, made, tuple(shape), "BF16", stored=tuple(shape))
            for name, shape in shapes.items()
            for made in ([name.replace("*", str(i)) for i in range(30)] if "*" in name else [name])
        }
        self.tensor_names = frozenset(self.tensors)

    def tensors_in(self, folder: str) -> Mapping[str, Entry]:
        assert not folder
        return self.tensors

    def settings(self, *_: str) -> dict[str, Any]:
        return {}

    def find(self, *_: str) -> None:
        return None


def test_every_tensor_of_the_published_size_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wamkit.policy.importing.Source", _Headers)
    text = ("text_encoder.name=bytes", "text_encoder.embedding=4096")
    plan = plan_import("step_060000.pt", "light_wam", ("backbone.lora_scale=2.0", *text))
    held = _Headers("").tensors
    lora = [name for name in held if "lora_" in name]
    assert len(lora) == 600 and not plan.dropped
    merged = [e for e in plan.weights["backbone"].values() if e.adapter is not None]
    assert len(merged) == 300 and {e.adapter.down.shape[0] for e in merged if e.adapter} == {64}
    # q, k and v of a pool are one tensor there and three here, weights and biases.
    count = len(plan.weights["backbone"]) + len(plan.weights["action_head"])
    assert count == len(held) - len(lora) + 3 * 4


def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(
    policy: Policy, tmp_path: Path
) -> None:
    expect_acts_and_learns(policy, tmp_path)


def test_damaged_settings_and_statistics_are_refused_clearly(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "released").mkdir()
    file = checkpoint(record, tmp_path / "released")
    files = ("config.yaml", "dataset_stats.json")
    expect_clear_errors(file, files, tmp_path / "copies", SIZES, every=2)

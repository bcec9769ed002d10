"""A checkpoint of GE-Act for CALVIN, imported, acts as the authors' evaluation does.

`data/ge_act_calvin.safetensors` was recorded from the published code by
`data/make_ge_act_calvin.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from wamkit_ge_act import GEAct

from wamkit.config.extends import merge
from wamkit.config.spec import parse, read
from wamkit.engine.noise_schedule import NoiseTape
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.policy.view_steps import fit_to_view
from wamkit.testing.parity import float64, same_values, to_float64
from wamkit.testing.recorded import part_of, read_record

RECORD = Path(__file__).parent / "data" / "ge_act_calvin.safetensors"
EXAMPLE = Path(__file__).parents[4] / "examples" / "ge_act_calvin.toml"
SIZES = {"observation.images.top": 200, "observation.images.wrist": 84}
PARTS = (
    *("backbone.variant=tiny", "vae.width=tiny", "dtype=float32"),
    *("text_encoder.name=bytes", "text_encoder.max_length=16"),
)
NETWORK = {"num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 4}
NETWORK |= {"caption_channels": 12, "action_num_attention_heads": 2}
SETTINGS: dict[str, Any] = {
    "noise_to_first_frame": 0.01,
    "num_inference_step": 10,
    "diffusion_model": {"config": {**NETWORK, "action_attention_head_dim": 4}},
    "data": {
        "train": {
            "domains": ["calvin"], "sample_size": [64, 64], "valid_cam": [*SIZES], "chunk": 9,
            "action_chunk": 54, "n_previous": 4, "action_space": "eef", "random_crop": True,
            "previous_pick_mode": "random", "action_type": "absolute", "preprocess": "resize",
        }
    },
}  # fmt: skip
"""What the authors' YAML file holds, at the sizes of the record."""


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return read_record(RECORD)


@pytest.fixture(scope="module")
def plan(record: dict[str, Tensor], tmp_path_factory: Any) -> ImportPlan:
    """The plan of a released file, with its statistics and settings."""
    folder = tmp_path_factory.mktemp("released")
    save_file(part_of(record, "weights/"), folder / "ge_act_calvin.safetensors")
    tables = {
        name: {row: x.tolist() for row, x in part_of(record, f"statistics/{name}/").items()}
        for name in ("calvin_eef", "calvin_state_eef")
    }
    (folder / "stats_calvin_rel.json").write_text(json.dumps(tables))
    (folder / "action_model_calvin.yaml").write_text(yaml.safe_dump(SETTINGS))
    return plan_import(folder / "ge_act_calvin.safetensors", None, PARTS)


@pytest.fixture(scope="module")
def policy(
    record: dict[str, Tensor], plan: ImportPlan, tmp_path_factory: Any, linear_vae: Any
) -> Policy:
    """The imported policy in float64, with the text encoder and the VAE of the record."""
    folder = plan.write(tmp_path_factory.mktemp("imported") / "policy", random_parts=True)
    policy = Policy.load(folder)
    policy.text_encoder.load_state_dict(part_of(record, "text/"))  # type: ignore[attr-defined]
    policy.vae = linear_vae(record["vae"])
    return to_float64(policy)


def image_of(camera: int, step: int, size: int) -> Tensor:
    """The image [3, size, size] of a camera in `data/make_ge_act_calvin.py`."""
    y, x, c = torch.meshgrid(*(torch.arange(n) for n in (size, size, 3)), indexing="ij")
    image = (5 * y + 3 * x + 41 * c + (x * y) // 70 + 60 * camera + 9 * step) % 256
    return image.to(torch.uint8).permute(2, 0, 1)


def test_the_settings_of_a_run_give_the_example_at_their_sizes(plan: ImportPlan) -> None:
    views = [{**view, "size": [64, 64]} for view in read(EXAMPLE)["cameras"]["views"]]
    network = {"layers": 4, "num_heads": 2, "head_dim": 10, "mlp_dim": 80, "text_width": 12}
    sizes = {
        "backbone": network,
        "action_head": {"num_heads": 2, "head_dim": 4, "mlp_dim": 32},
        "cameras": {"views": views},
    }
    assert parse(dict(plan.imported.spec)) == parse(merge(read(EXAMPLE), sizes))


def test_images_are_resized_as_in_the_published_evaluation(record: dict[str, Tensor]) -> None:
    views = parse(read(EXAMPLE)).cameras.views
    for camera, (view, size) in enumerate(zip(views, SIZES.values(), strict=True)):
        found = fit_to_view(image_of(camera, 3, size)[None], view)[0, :, ::5, ::5]
        levels = ((found + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
        assert torch.equal(levels, record["outputs/resized"][camera])


@torch.no_grad()
@float64()
def test_an_episode_has_the_published_actions(policy: Policy, record: dict[str, Tensor]) -> None:
    wide, video = to_float64(record), policy.spec.video
    chunks, steps, _ = wide["outputs/actions"].shape
    for k in range(chunks):
        moments = [max(0, k * steps + m) for m in video.moments(video.num_observed)]
        images = {
            name: torch.stack([image_of(i, step, size) for step in moments])
            for i, (name, size) in enumerate(SIZES.items())
        }
        seen = Observation(images, "put it there", wide["inputs/states"][k * steps])
        inputs = inference_inputs(policy, seen)
        tape = NoiseTape(torch.Generator())
        future = wide["inputs/noise_video"].transpose(0, 1).flatten(1, 2)[None]
        tape.entries = [(future, 0), (wide["inputs/noise_action"], 0)]
        out = policy.paradigm.act(policy.model_with_cfg(inputs), inputs, policy.schedules, tape)
        actions = policy.to_action_chunk(out, seen).values[0, :steps, :7]
        same_values(actions, wide["outputs/actions"][k], GEAct.verified["run"], scale=1.0)
        gripper = wide["outputs/executed"][k, :, -1]  # the simulator's: to open or to close
        assert torch.equal(torch.where(actions[:, -1] < 0, -1.0, 1.0), gripper)

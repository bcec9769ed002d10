"""A checkpoint of Light-WAM for RoboTwin, imported, computes and acts as the authors' code does.

`data/light_wam_robotwin.safetensors` was recorded from the published code by
`data/make_light_wam_robotwin.py`. What is measured must be below `verified.toml`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from wamkit_light_wam import LightWAM
from wamkit_light_wam.specs import LIBERO

from wamkit.checkpoints import safetensors as weights
from wamkit.config.spec import parse, read
from wamkit.engine.noise_schedule import shift_sigma
from wamkit.interfaces.types import Text
from wamkit.policy.importing import plan_import
from wamkit.policy.losses import modality_loss
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import training_inputs
from wamkit.testing.parity import float64, to_float64
from wamkit.testing.recorded import RecordedNoise, part_of, read_record

RECORD = Path(__file__).parent / "data" / "light_wam_robotwin.safetensors"
EXAMPLE = Path(__file__).parents[4] / "examples" / "light_wam_robotwin.toml"
TASK = "put the cup away"
PARTS = (
    *("backbone.variant=tiny", "backbone.layers=3", "backbone.num_heads=2", "backbone.head_dim=12"),
    *("backbone.mlp_dim=24", "backbone.text_width=16", "vae.name=wan2.1", "vae.width=tiny"),
    *("text_encoder.name=bytes", "text_encoder.max_length=128", "dtype=float32"),
)
"""Parts as small as the record; other sizes are in the tensors and in `config.yaml`."""
HEAD = {"layers": [0, 1, 2], "queries": 3, "num_heads": 2, "adapter": 6}
HEAD |= {"layer_width": 12, "width": 16, "blocks": 1}


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return read_record(RECORD)


def config() -> dict[str, Any]:
    """The `config.yaml` of the recorded run, which rounded nothing."""
    with safe_open(RECORD, framework="pt") as file:
        return json.loads(file.metadata()["config"]) | {"mixed_precision": "no"}  # type: ignore[no-any-return]


def checkpoint(record: dict[str, Tensor], folder: Path, *, statistics: bool = True) -> Path:
    """Write a checkpoint in the published layout, settings and statistics next to it."""
    names = ("mot", "state_fusion_action_expert", "proprio_encoder")
    payload: dict[str, Any] = {
        n: {k: v.float() for k, v in part_of(record, f"weights/{n}.").items()} for n in names
    }
    torch.save(payload | {"step": 7, "torch_dtype": "torch.float32"}, folder / "step_007.pt")
    (folder / "config.yaml").write_text(json.dumps(config()))
    if statistics:
        rows = {
            kind: {
                "default": {
                    k: v.tolist() for k, v in part_of(record, f"statistics/{kind}/").items()
                }
            }
            for kind in ("action", "state")
        }
        (folder / "dataset_stats.json").write_text(json.dumps(rows))
    return folder / "step_007.pt"


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    """The policy that an import makes, with the VAE of the record."""
    folder = tmp_path_factory.mktemp("robotwin")
    file = checkpoint(record, folder)
    seeded = Policy.from_spec(plan_import(file, None, PARTS).spec.model_copy(update={"seed": 0}))
    weights.save(seeded.vae, folder / "vae.safetensors")
    vae = f"vae.weights={json.dumps(str(folder / 'vae.safetensors'))}"
    plan = plan_import(file, None, (*PARTS, vae))
    return Policy.load(plan.write(folder / "policy", random_parts=True))


@pytest.fixture(scope="module")
def normalized(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    """The same policy in float64, for actions and states that are normalized already."""
    folder = tmp_path_factory.mktemp("robotwin")
    plan = plan_import(checkpoint(record, folder, statistics=False), None, PARTS)
    return to_float64(Policy.load(plan.write(folder / "policy", random_parts=True)))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max())


def image_of(camera: int, height: int, width: int) -> Tensor:
    """The image [3, height, width] of a camera in `data/make_light_wam_robotwin.py`."""
    y, x, c = torch.meshgrid(*(torch.arange(n) for n in (height, width, 3)), indexing="ij")
    image = (7 * y + 3 * x + 31 * c + (x * y) // 90 + 50 * camera) % 256
    return image.to(torch.uint8).permute(2, 0, 1)


def wave(shape: tuple[int, ...], pace: float) -> Tensor:
    """The latents and the noise of `data/make_light_wam_robotwin.py`."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (1.5 * torch.sin(pace * count + 0.01 * (count % 97))).view(shape)


def test_the_settings_of_a_published_run_are_those_of_the_example(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    spec = plan_import(checkpoint(record, tmp_path), None, PARTS).imported.spec
    tables = read(EXAMPLE)
    tables["action_head"] |= HEAD
    tables["backbone"]["lora_scale"] = 2.0  # merged into the weights of a released policy
    tables["dtype"] = spec["dtype"]
    tables["schedules"]["video"]["bf16_timesteps"] = False  # it rounded nothing
    assert parse(dict(spec)) == parse(tables)
    with safe_open(RECORD, framework="pt") as file:
        assert file.metadata()["executed"] == str(tables["action_head"]["first_steps"])


@torch.no_grad()
@float64()
def test_the_training_step_predicts_and_costs_the_same(
    normalized: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = to_float64(part_of(record, "inputs/"))
    text = Text(inputs["text"])
    monkeypatch.setattr("wamkit.policy.preprocessing.embed_prompts", lambda *_, **__: text)
    levels = inputs["timestep_video"] / 1000
    video = normalized.schedules["video"]
    video = type("Recorded", (type(video),), {"sample": lambda *_: levels})(video.config)
    blank = {
        view.name: torch.zeros(2, 9, 3, 12, 16, dtype=torch.uint8)
        for view in normalized.spec.cameras.views
    }
    batch = Batch(
        Observation(blank, (TASK, TASK), inputs["proprio"]),
        inputs["actions"],
        step_valid=~record["inputs/action_is_pad"].bool(),
        frame_valid=~record["inputs/image_is_pad"].bool(),
        latents=wave((2, 16, 3, 48, 40), 0.73),
    )
    noise = wave((2, 16, 3, 24, 20), 1.91)
    recorded = RecordedNoise([noise[:, :, 1:], torch.zeros(2, 32, 14)])
    schedules = {**normalized.schedules, "video": video}
    noisy, goals = normalized.paradigm.add_noise(
        training_inputs(normalized, batch), schedules, recorded
    )
    found = normalized.model(noisy)
    assert found.future is not None and noisy.action is not None
    velocity = found.future[:, :, 1:, ::4, ::4]
    errors = [difference(velocity, record["outputs/velocity_video"][:, :, 1:])]
    actions = noisy.action.x - noisy.action.sigma[..., None] * found.action
    errors.append(difference(actions, record["outputs/action"]))
    assert max(errors) <= LightWAM.verified["network"], errors
    errors = [
        difference(
            modality_loss(normalized, part, goals[part], noisy, found, batch),
            record[f"outputs/loss_{part}"],
        )
        for part in ("video", "action")
    ]
    assert max(errors) <= LightWAM.verified["loss"], errors


@pytest.mark.parametrize(("run", "size"), [(0, (480, 640)), (1, (240, 320))])
def test_a_run_from_images_gives_the_published_actions_in_physical_units(
    run: int,
    size: tuple[int, int],
    policy: Policy,
    record: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide, own = to_float64(policy), part_of(record, f"run/{run}/")
    template = policy.spec.text_encoder.prompt_template
    prompt = bytes(record["run/prompt"].tolist()).decode()
    assert template is not None and template.format(instruction=TASK) == prompt
    text = Text(record["run/context"])  # of which padding is zeros that are seen
    monkeypatch.setattr("wamkit.policy.preprocessing.embed_prompts", lambda *_, **__: text)
    names = [view.name for view in policy.spec.cameras.views]
    with float64():
        images = {n: image_of(i + 3 * run, *size)[None, None] for i, n in enumerate(names)}
        canvas = wide.cameras.canvas(images)[0, :, 0, ::8, ::8]
        state = wide.states.encode(own["state"][None])[0]
        chunk = wide.act(Observation(images, (TASK,), own["state"][None]), seed=0)
    errors = [difference(canvas, own["canvas"]), difference(state, own["normalized"])]
    assert max(errors) <= LightWAM.verified["inputs"], errors
    executed = own["actions"].shape[0]  # 24 of 32
    error = difference(chunk.values[0, :executed], own["actions"])
    assert error <= LightWAM.verified["run"], error


@float64()
def test_levels_of_training_are_rounded_as_the_published_ones(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LIBERO["schedules"]["video"]["bf16_timesteps"]
    flow, drawn = policy.schedules["video"], record["rounded/drawn"]
    rounded = type(flow)(flow.config.model_copy(update={"bf16_timesteps": True}), flow.tokens)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    levels = rounded.sample((64,), torch.zeros(1), torch.Generator())
    assert torch.equal(1000 * levels, record["rounded/timesteps"].double())
    assert not torch.equal(levels, shift_sigma(drawn, flow.shift).double())
    error = float((rounded.weight(levels) - record["rounded/weights"]).abs().max())
    assert error <= LightWAM.verified["rounded_levels"], error


def test_an_action_has_no_levels_to_round_in_use(policy: Policy) -> None:
    assert policy.schedules["action"].grid() == [1.0, 0.0]

"""GE-Act's own code and wamkit's composition of parts compute the same, from the same weights.

`data/ge_act_tiny.safetensors` was recorded from the published code by `data/make_ge_act_tiny.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from wamkit_ge_act import GEAct
from wamkit_ge_act.specs import RELEASES

from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.source import Source
from wamkit.config.spec import parse, read
from wamkit.config.visibility import freeze
from wamkit.engine.attention_plan import plan_pass
from wamkit.engine.noise_schedule import NoiseTape
from wamkit.engine.passes import PassRunner
from wamkit.errors import WamkitError
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import DenoisingTarget, Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.importing import plan_import
from wamkit.policy.losses import vector_loss
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.imported import expect_acts_and_learns, expect_clear_errors
from wamkit.testing.parity import float64, other_values, same_values, to_float64
from wamkit.testing.recorded import part_of, read_record

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).parents[4] / "examples"
VERIFIED = GEAct.verified
VIEWS, OBSERVED, FUTURE, ACTION = 2, 4, 2, 3


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return read_record(DATA / "ge_act_tiny.safetensors")


TINY = (
    *("backbone.variant=tiny", "vae.width=tiny", "dtype=float32"),
    *("text_encoder.name=bytes", "text_encoder.max_length=16"),
)
"""Parts as small as the record; other sizes are in the YAML file of the run."""
SETTINGS: dict[str, Any] = {
    "noise_to_first_frame": 0.01,
    "num_inference_step": 10,
    "diffusion_model": {
        "config": {
            "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 4,
            "in_channels": 128, "caption_channels": 12, "action_in_channels": 7,
            "action_num_attention_heads": 2, "action_attention_head_dim": 4,
        }
    },
    "data": {
        "train": {
            "domains": ["libero"], "sample_size": [32, 64], "valid_cam": ["image", "wrist_image"],
            "chunk": 9, "action_chunk": 5, "n_previous": 4, "action_space": "eef",
        }
    },
}  # fmt: skip
"""What the authors' YAML files hold, at the sizes of the record."""


@pytest.fixture(scope="module")
def checkpoint(record: dict[str, Tensor], tmp_path_factory: Any) -> Path:
    """The files of a released task: weights under their own names, statistics, settings."""
    folder = tmp_path_factory.mktemp("released")
    save_file(part_of(record, "weights/"), folder / "ge_act_libero.safetensors")
    tables = {
        f"libero_{name}": statistics_rows(*record[f"statistics/{kind}"].tolist())
        for name, kind in (("eef", "action"), ("state_eef", "state"))
    }
    (folder / "libero_all.json").write_text(json.dumps(tables))
    (folder / "action_model_libero.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder / "ge_act_libero.safetensors"  # type: ignore[no-any-return]


def statistics_rows(low: list[float], high: list[float]) -> dict[str, list[float]]:
    """A table as in the authors' statistics files."""
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    return {
        "mean": middle, "std": [0.5] * len(low), "max": high, "min": low, "q99": high, "q01": low
    }  # fmt: skip


@pytest.fixture(scope="module")
def policy(
    record: dict[str, Tensor], checkpoint: Path, tmp_path_factory: Any, linear_vae: Any
) -> Policy:
    """The imported policy, with the text encoder and the VAE of the record."""
    plan = plan_import(checkpoint, None, TINY)
    assert plan.dropped == {}
    folder = plan.write(tmp_path_factory.mktemp("imported") / "policy", random_parts=True)
    policy = Policy.load(folder)
    policy.text_encoder.load_state_dict(part_of(record, "text/"))  # type: ignore[attr-defined]
    policy.vae = linear_vae(record["vae"])
    return policy


@pytest.fixture(scope="module")
def wide(policy: Policy) -> Policy:
    """The policy in float64, in which the outputs were recorded."""
    return to_float64(policy)


def inputs_of(record: dict[str, Tensor], prefix: str = "inputs/") -> ModelInputs:
    """The inputs of a recorded pass."""
    x = part_of(record, prefix)
    z = x["latents"]  # [B, V, C, T, h, w]
    z = torch.cat([z[:, :, :, :OBSERVED].movedim(1, 2).flatten(2, 3),
                   z[:, :, :, OBSERVED:].movedim(1, 2).flatten(2, 3)], 2)  # fmt: skip
    roles = ("context",) * OBSERVED * VIEWS + ("target",) * FUTURE * VIEWS
    times = (0.0, 1.0, 2.0, 3.0) * VIEWS + (4.0, 5.0) * VIEWS
    views = (0,) * OBSERVED + (1,) * OBSERVED + (0,) * FUTURE + (1,) * FUTURE
    sigma = torch.cat(
        [torch.zeros(2, OBSERVED * VIEWS), x["sigma_video"][:, None].expand(-1, FUTURE * VIEWS)], 1
    )
    return ModelInputs(
        Text(x["text"], x["text_mask"].bool()),
        Frames(z, roles, times, sigma, views=views),
        action=NoisyVectors(x["actions"], x["sigma_action"]),
        state=x["state"][:, 0, ACTION:],
    )


def by_view(z: Tensor) -> Tensor:
    """Latents [B, C, V * T, h, w] in the order of inputs as [B, V, C, T, h, w]."""
    seen = z[:, :, : OBSERVED * VIEWS].unflatten(2, (VIEWS, -1))
    rest = z[:, :, OBSERVED * VIEWS :].unflatten(2, (VIEWS, -1))
    return torch.cat([seen, rest], 3).movedim(2, 1)


@torch.no_grad()
@float64()
def test_the_network_predicts_the_same(wide: Policy, record: dict[str, Tensor]) -> None:
    out = wide.model(inputs_of(to_float64(record)))
    assert out.video is not None
    same_values(by_view(out.video), record["outputs/video"], VERIFIED["network"], scale=1.0)
    same_values(out.action, record["outputs/action"], VERIFIED["network"], scale=1.0)


@torch.no_grad()
def test_the_network_in_float32_predicts_the_same(
    policy: Policy, record: dict[str, Tensor]
) -> None:
    out = policy.model(inputs_of(record))
    same_values(out.action, record["outputs/float32_action"], 2e-5)


@float64()
def test_views_attend_to_each_other_in_the_published_layers(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    inputs = inputs_of(to_float64(record))
    assert inputs.video is not None
    stream = embed_video(PassRunner(), wide.backbone, inputs.video, inputs.text).frames
    shape = tuple((s.name, s.length) for s in stream.segments)
    active = (tuple(True for _ in stream.blocks),)
    plan = plan_pass((shape,), active, freeze(wide.paradigm.sees), apart=stream.views_apart)
    place = torch.arange(stream.tokens.shape[1]).view(1, 1, -1, 1, 2)
    order = by_view(place).flatten()
    for layer, step in enumerate(plan):
        mask = torch.zeros(len(order), len(order), dtype=torch.uint8)
        start = 0
        for group in step.queries[0]:
            for piece in step.key_sets[group.key_set].slices:
                keys = slice(piece.start, piece.start + piece.length)
                mask[start : start + group.length, keys] = 1
            start += group.length
        assert torch.equal(mask[order][:, order], record[f"outputs/mask_{layer}"])


def test_noise_levels_of_a_run_are_the_published_ones(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    sampler = wide.schedules["action"].init_sampler(torch.zeros(1, 1, 1))
    levels = torch.tensor(sampler.level.table, dtype=torch.float64)  # type: ignore[union-attr]
    same_values(levels, record["outputs/run_sigmas"], VERIFIED["levels"], scale=1.0)


def test_a_run_in_bfloat16_rounds_neither_levels_nor_steps(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    schedule = wide.schedules["action"]
    assert not schedule.config.bf16_sampling
    sampler = schedule.init_sampler(torch.zeros(1, 1, 1))
    levels, lengths = (record[f"outputs/{x}_bfloat16"].double() for x in ("levels", "lengths"))
    same_values(torch.tensor(sampler.levels).double(), levels / 1000, VERIFIED["levels"])
    steps = torch.tensor([lower - s for s, lower in pairwise(sampler.nodes)]).double()
    same_values(steps, lengths, VERIFIED["levels"], scale=1.0)
    other_values(steps.bfloat16().double(), lengths, 5e-4)


@torch.no_grad()
@float64()
def test_a_training_step_has_the_published_loss(wide: Policy, record: dict[str, Tensor]) -> None:
    x = part_of(to_float64(record), "inputs/train_")
    x |= {"sigma_action": x["sigma"], "sigma_video": x["timesteps"][:, -1]}
    x |= {"actions": x["noisy_action"], "state": record["inputs/state"].double()}
    inputs = inputs_of({f"inputs/{k}": v for k, v in (x | {"clean": x["actions"]}).items()})
    flow, clean = wide.schedules["action"], to_float64(record)["inputs/train_actions"]
    same_values(flow.add(clean, x["noise_action"], x["sigma"]), x["noisy_action"])
    out = wide.model(inputs).action
    same_values(out, record["outputs/train_velocity_action"])
    goal = DenoisingTarget(flow.velocity(clean, x["noise_action"]), flow.weight(x["sigma"]))
    assert out is not None
    loss = vector_loss(out, goal, torch.ones_like(out))
    same_values(loss, record["outputs/train_loss"], VERIFIED["loss"], scale=1.0)


@torch.no_grad()
@float64()
def test_a_run_from_images_gives_the_published_actions(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    record = to_float64(record)
    images = record["inputs/run_images"].repeat_interleave(4, -1).repeat_interleave(4, -2)
    seen = Observation(
        images=dict(zip(("image", "wrist_image"), images, strict=True)),
        prompt="put it there",
        state=record["inputs/run_state"],
    )
    inputs = inference_inputs(wide, seen)
    tape = NoiseTape(torch.Generator())
    video = record["inputs/run_noise_video"].transpose(0, 1).flatten(1, 2)[None]
    tape.entries = [(video, 0), (record["inputs/run_noise_action"], 0)]
    out = wide.paradigm.act(wide.model_with_cfg(inputs), inputs, wide.schedules, tape)
    actions = wide.to_action_chunk(out, seen).values[0]
    same_values(actions, record["outputs/run_actions"], VERIFIED["run"], scale=1.0)


PUBLISHED = {7: 15, 8: 512, 12: 4096, 20: 2048, 32: 2048, 48: 3072, 80: 8192, 120: 12288}
"""Sizes of the record -> of the release for LIBERO; others are the same."""


def published(record: dict[str, Tensor], release: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a released file.

    Those for LIBERO are compared with a hash of all names and shapes of the authors' own class at
    its published size; CALVIN's file differs in the size of what is denoised.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in part_of(record, "weights/").items():
        shape = tuple(PUBLISHED.get(n, n) for n in tensor.shape)
        for layer in range(28) if "blocks.0." in name else [0] if "blocks." not in name else []:
            shapes[name.replace("blocks.0.", f"blocks.{layer}.")] = shape
    lines = "\n".join(sorted(f"{name} {list(shape)}" for name, shape in shapes.items()))
    with safe_open(DATA / "ge_act_tiny.safetensors", framework="pt") as file:
        assert hashlib.sha256(lines.encode()).hexdigest() == file.metadata()["published"]
    size = {"libero": 15, "calvin": 22}[release]
    return {k: tuple(size if n == 15 else n for n in shape) for k, shape in shapes.items()}


@pytest.mark.parametrize(("release", "name"), [("libero", "ge_act"), ("calvin", "ge_act_calvin")])
def test_every_tensor_of_a_published_file_has_its_place(
    release: str,
    name: str,
    record: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, shapes = tmp_path / f"ge_act_{release}.safetensors", published(record, release)
    file.touch()
    held = {k: Entry(file, k, shape, "BF16") for k, shape in shapes.items()}
    monkeypatch.setattr(Source, "_entries", lambda *_: held)
    plan = plan_import(file, None, ["text_encoder.name=bytes", "text_encoder.embedding=4096"])
    used = {entry.name for entries in plan.weights.values() for entry in entries.values()}
    assert used == set(shapes) and plan.dropped == {}
    assert parse(dict(plan.imported.spec)) == parse(read(EXAMPLES / f"{name}.toml"))


@pytest.mark.parametrize(("release", "name"), [("libero", "ge_act"), ("calvin", "ge_act_calvin")])
def test_an_example_is_the_spec_of_its_release(release: str, name: str) -> None:
    example = parse(read(EXAMPLES / f"{name}.toml"))
    assert example == parse(RELEASES[release])


def test_a_checkpoint_of_another_robot_is_refused_with_the_releases(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(part_of(record, "weights/"), tmp_path / "ge_act.safetensors")
    with pytest.raises(WamkitError, match="vectors of 7 values, which is no released one"):
        plan_import(tmp_path / "ge_act.safetensors", None, TINY)


def test_statistics_of_another_data_set_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "libero_all.json").write_text(json.dumps({"calvin_eef": {}}))
    with pytest.raises(WamkitError, match=r"lack .* of libero_eef; they hold calvin_eef"):
        plan_import(tmp_path / checkpoint.name, None, TINY)


def test_an_imported_policy_acts_the_same_once_saved_and_learns_on(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = plan_import(checkpoint, None, TINY).write(tmp_path / "policy", random_parts=True)
    expect_acts_and_learns(Policy.load(folder), tmp_path / "again")


def test_damaged_settings_and_statistics_are_refused_clearly(
    checkpoint: Path, tmp_path: Path
) -> None:
    expect_clear_errors(
        checkpoint, ("action_model_libero.yaml", "libero_all.json"), tmp_path, TINY, every=3
    )


def changed(checkpoint: Path, folder: Path, name: str, value: Any) -> Path:
    """The files of a checkpoint with one setting of its YAML file changed."""
    settings = deepcopy(SETTINGS)
    *parents, last = name.split(".")
    table = settings
    for key in parents:
        table = table[key]
    table[last] = value
    shutil.copytree(checkpoint.parent, folder, dirs_exist_ok=True)
    (folder / "action_model_libero.yaml").write_text(yaml.safe_dump(settings))
    return folder / checkpoint.name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noisy_video", False),
        ("pixel_wise_timestep", False),
        ("add_state", False),
        ("return_action", False),
        ("diffusion_scheduler_args", {"shift": 3.0}),
        ("diffusion_model.config.norm_eps", "1e-5"),
        ("diffusion_model.config.qk_norm", "layer_norm"),
        ("diffusion_model.config.patch_size", 2),
        ("data.train.action_type", "delta"),
        ("data.train.action_space", "joint"),
        ("data.train.preprocess", "crop"),
        ("data.train.use_unified_prompt", True),
    ],
)
def test_a_setting_with_another_value_than_here_is_refused_by_name(
    checkpoint: Path, tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(WamkitError, match=rf"{name} = .*, expected") as found:
        plan_import(changed(checkpoint, tmp_path, name, value), None, TINY)
    assert "authors' code" in found.value.hint


def test_settings_of_training_are_read_or_noted(checkpoint: Path, tmp_path: Path) -> None:
    file = changed(checkpoint, tmp_path, "action_loss_scale", 2.0)
    assert plan_import(file, None, TINY).spec.schedules.action.loss_weight == 2.0
    file = changed(checkpoint, tmp_path, "caption_dropout_p", 0.06)
    notes = plan_import(file, None, TINY).imported.notes
    assert "Training there has caption_dropout_p = 0.06, here 0.0." in notes


def test_a_robot_that_is_chosen_by_its_sizes_is_noted(checkpoint: Path) -> None:
    noted = [plan_import(checkpoint, None, options).imported.notes
             for options in (TINY, (*TINY, "importer.release=libero"))]  # fmt: skip
    assert [any("actions.control_hz = 20" in note for note in notes) for notes in noted] == [
        True,
        False,
    ]

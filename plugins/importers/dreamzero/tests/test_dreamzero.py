"""DreamZero's own code and wamkit's composition of parts compute the same, from the same weights.

`data/dreamzero_tiny.safetensors` was recorded from the published code by
`data/make_dreamzero_tiny.py`, which says what in it is the authors' code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import wamkit_autoregressive.paradigm as autoregressive
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from wamkit_dreamzero import DreamZero
from wamkit_wan.image_encoder import ImageEncoder, Shape
from wamkit_wan.image_encoder import tiny as clip_shape
from wamkit_wan.vae import WAN21, WanVAE, tiny
from wamkit_wan.vae_weights import LAYOUTS

import wamkit.interfaces.paradigm as interface
from wamkit.checkpoints.files import Entry
from wamkit.checkpoints.source import Source
from wamkit.config.spec import parse, read
from wamkit.engine.noise_schedule import NoiseSchedule
from wamkit.engine.passes import PassRunner
from wamkit.errors import WamkitError
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.policy.losses import vector_loss, video_loss
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.parity import float64, same_values, to_float64

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).parents[4] / "examples"
BLOCKS, STEPS, VALUES = 3, 4, 8
ROWS = ("min", "max", "mean", "std", "q01", "q99")
VERIFIED = DreamZero.verified
KEYS = {"joint_position": 7, "gripper_position": 1}
SIZES = (
    *("backbone.variant=tiny", "vae.width=tiny", "dtype=float32"),
    *("text_encoder.name=bytes", "text_encoder.max_length=511"),
    *("cameras.views.0.size=[16, 32]", "cameras.views.1.size=[16, 16]"),
    "cameras.views.2.size=[16, 16]",
)
"""Parts as small as the record; other sizes are in `config.json` and in the tensors."""


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Weights that follow from a seed alone, as in the script."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            spread = 1 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.copy_((p.ndim == 1) * 0.5 + torch.randn(p.shape, generator=rng) * spread)
    return module.eval()


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    with safe_open(DATA / "dreamzero_tiny.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def published(name: str, layers: dict[str, int] | None = None) -> dict[str, list[int]]:
    """Name -> shape of every tensor of a released checkpoint, or of one with fewer layers."""
    found: dict[str, list[int]] = {}
    for key, (count, shape) in json.loads((DATA / "dreamzero_names.json").read_text())[
        name
    ].items():
        part = key.split(".")[1]
        for layer in range((layers or {}).get(part, count) if "*" in key else 1):
            found[key.replace("*", str(layer))] = shape
    return found


def tower(encoder: ImageEncoder, shape: Shape) -> dict[str, Tensor]:
    """A CLIP tower under its published names, with a last layer of zeros."""
    ours, layer = encoder.state_dict(), "encoder.layers.{}."
    found = {
        "cls_embedding": ours["embeddings.class_embedding"][None, None],
        "pos_embedding": ours["embeddings.position_embedding.weight"][None],
        "patch_embedding.weight": ours["embeddings.patch_embedding.weight"],
    }
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    names |= {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    for kind in ("weight", "bias"):
        found[f"pre_norm.{kind}"] = ours[f"pre_layrnorm.{kind}"]
        for i in range(shape.layers - 1):
            start, old = layer.format(i), f"transformer.{i}."
            found |= {f"{old}{k}.{kind}": ours[f"{start}{v}.{kind}"] for k, v in names.items()}
            parts = [ours[f"{start}self_attn.{x}_proj.{kind}"] for x in "qkv"]
            found[f"{old}attn.to_qkv.{kind}"] = torch.cat(parts)
    return found


ADAPTED = re.compile(r"(self_attn|cross_attn)\.[qkvo]\.weight$|\.ffn\.[02]\.weight$")


def adapted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights where training with LoRA is not merged: as `peft` names them, rank 2."""
    rng, found = torch.Generator().manual_seed(9), {}
    for name, value in state.items():
        new = name.replace("action_head.model.", "action_head.model.base_model.model.")
        start = new.removesuffix("weight").removesuffix("bias")
        if name.startswith("action_head.model.") and ADAPTED.search(f"{start}weight"):
            if new.endswith("weight"):
                out, into = value.shape
                found[f"{start}lora_A.default.weight"] = torch.randn(2, into, generator=rng)
                found[f"{start}lora_B.default.weight"] = torch.randn(out, 2, generator=rng)
            new = start + "base_layer." + new.removeprefix(start)
        found[new] = value
    return found


def checkpoint(
    record: dict[str, Tensor], folder: Path, *, guided: bool = True, lora: bool = False
) -> Path:
    """A folder as it is released: every tensor name, in two files, with settings and statistics."""
    start, shape = "weights/", clip_shape(16)
    state = {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}
    if not guided:
        name = "action_head.model.patch_embedding.weight"
        state[name] = state[name][:, :16].contiguous()
    vae = fill(WanVAE(tiny(WAN21)), 11).state_dict()
    clip = tower(fill(ImageEncoder(shape), 12), shape)  # type: ignore[arg-type]
    (original,) = [x for x in LAYOUTS["wan2.1"] if x.name == "original"]
    layers = {"model": 2, "image_encoder": shape.layers, "text_encoder": 1}
    for name in published("14b", layers):
        part, _, rest = name.removeprefix("action_head.").partition(".model.")
        if part == "vae":
            state[name] = vae[original.rename(rest)[0]]
        elif part == "image_encoder":
            known = clip.get(rest.removeprefix("visual."))
            state[name] = torch.zeros(1) if known is None else known
        elif name.startswith("action_head.text_encoder."):
            state[name] = torch.zeros(1)
        assert name in state, name
    if lora:
        state = adapted(state)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    for i, some in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"model-0000{i}-of-00002.safetensors"
        save_file({name: state[name].contiguous() for name in some}, file)
    where = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    network = {"num_heads": 2, "max_chunk_size": BLOCKS, "num_frame_per_block": 2}
    network |= {"num_action_per_block": STEPS}
    settings = {"diffusion_model_cfg": network, "action_horizon": STEPS}
    settings |= {"lora_rank": 2, "lora_alpha": 3}
    (folder / "config.json").write_text(json.dumps({"action_head_cfg": {"config": settings}}))
    (folder / "experiment_cfg").mkdir(exist_ok=True)
    (folder / "experiment_cfg" / "metadata.json").write_text(json.dumps(metadata(record)))
    return folder


def metadata(record: dict[str, Tensor]) -> dict[str, Any]:
    """`metadata.json` with the recorded statistics."""
    tables: dict[str, Any] = {"statistics": {}, "modalities": {}}
    for kind in ("action", "state"):
        rows = {row: record[f"statistics/{kind}.{row}"].split([*KEYS.values()]) for row in ROWS}
        tables["statistics"][kind] = {
            key: {row: parts[i].tolist() for row, parts in rows.items()}
            for i, key in enumerate(KEYS)
        }
        tables["modalities"][kind] = {key: {"shape": [size]} for key, size in KEYS.items()}
    return {"oxe_droid": tables}


def built(record: dict[str, Tensor], folder: Path, *, guided: bool = True) -> Policy:
    """The policy that is imported from such a folder, with recorded parts around the network."""
    plan = plan_import(checkpoint(record, folder / "released", guided=guided), None, SIZES)
    policy = Policy.load(plan.write(folder / "policy", random_parts=True))
    fill(policy.text_encoder, 13)  # type: ignore[arg-type]
    policy.conditioner = fill(ImageEncoder(Shape(16, layers=2, heads=2)), 12)  # type: ignore[assignment]
    encode = policy.text_encoder.encode  # padding is zeros, and attended, as with UMT5
    policy.text_encoder.encode = lambda prompts: Text(encode(prompts).tokens)  # type: ignore
    return policy


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    return built(record, tmp_path_factory.mktemp("guided"))


@pytest.fixture(scope="module")
def unguided(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    return built(record, tmp_path_factory.mktemp("unguided"), guided=False)


def clean(record: dict[str, Tensor], guided: bool) -> ModelInputs:
    """The recorded sample before noise is added."""
    latents = record["train/latents"]
    frames = latents.shape[2]
    roles = ("context",) + ("target",) * (frames - 1)
    guide = record["train/guide"] if guided else None
    times = tuple(float(i) for i in range(frames))
    levels = torch.zeros(1, frames)
    return ModelInputs(
        Text(record["train/text"], cond_embeds=record["train/clip"]),
        Frames(latents, roles, times, levels, guide),
        NoisyVectors(record["train/actions"], torch.zeros(1)),
        state=record["train/states"][..., :VALUES],
    )


def noised(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, guided: bool
) -> tuple[ModelInputs, Any]:
    """The sample at the recorded levels with the recorded noise, and its targets."""
    noise = record["train/noise_video"]
    copies = torch.zeros_like(noise[:, :, 1:-2])  # clean ones get noise of level 0
    drawn = [noise[:, :, 1:], record["train/noise_action"], copies, noise[:, :, :1]]
    index = record["train/index"]
    levels = [index[:, 1:], index[:, :1]]

    def sample(flow: NoiseSchedule, shape: Any, like: Tensor, rng: Any) -> Tensor:
        chosen, u = levels.pop(0), torch.linspace(1, 0, 1001)[:-1]
        assert tuple(chosen.shape) == tuple(shape)
        return (flow.shift * u / (1 + (flow.shift - 1) * u))[chosen]

    monkeypatch.setattr(autoregressive, "draw_noise", lambda *_, **__: drawn.pop(0))
    monkeypatch.setattr(NoiseSchedule, "sample", sample)
    inputs = policy.action_head.prepare(clean(record, guided))
    return policy.paradigm.add_noise(inputs, policy.schedules, torch.Generator())


@pytest.mark.parametrize("name", ["14b", "5b"])
@float64()
def test_the_training_pass_predicts_the_same(
    name: str,
    record: dict[str, Tensor],
    policy: Policy,
    unguided: Policy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = to_float64(policy if name == "14b" else unguided)
    inputs, _ = noised(wide, to_float64(record), monkeypatch, guided=name == "14b")
    with torch.no_grad():
        out = wide.model(inputs)
    assert out.video is not None
    video = torch.cat([out.video[:, :, -1:], out.video[:, :, 1 : 1 + 2 * BLOCKS]], 2)
    same_values(video, record[f"trained/{name}/video"], VERIFIED["network"])
    same_values(out.action, record[f"trained/{name}/action"], VERIFIED["network"])


@float64()
def test_losses_and_training_levels_are_the_published_ones(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, record = to_float64(policy), to_float64(record)
    inputs, goals = noised(wide, record, monkeypatch, guided=True)
    assert inputs.video is not None and inputs.action is not None
    same_values(1000 * inputs.action.sigma, record["trained/timesteps_action"], VERIFIED["levels"])
    sigma = inputs.video.sigma[:, [*range(1, 1 + 2 * BLOCKS)]]
    same_values(1000 * sigma, record["trained/timesteps"][:, 1:], VERIFIED["levels"])
    with torch.no_grad():
        out = wide.model(inputs)
    assert out.video is not None and out.action is not None
    real = wide.action_head.to_latent("action", torch.ones(1, BLOCKS * STEPS, VALUES))
    action = vector_loss(out.action, goals["action"], real)
    same_values(
        video_loss(out.video, goals["video"], None), record["trained/loss_video"], VERIFIED["loss"]
    )
    weight = wide.schedules["action"].config.loss_weight
    same_values(weight * action, record["trained/loss_action"], VERIFIED["loss"])


@float64()
def test_visibility_is_the_mask_of_the_published_training_pass(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = to_float64(policy)
    inputs, _ = noised(policy, to_float64(record), monkeypatch, guided=True)
    head: Any = policy.action_head
    assert inputs.video is not None
    one = embed_video(PassRunner(), policy.backbone, inputs.video, inputs.text).frames
    tokens = [s.role for s in one.segments for _ in range(s.length // 4)]  # one a frame
    first, noisy, seen = tokens[:1], tokens[1 : 1 + 2 * BLOCKS], tokens[1 + 2 * BLOCKS : -1]
    seen += ["seen.2"] * 2  # which nobody else sees, so that no pass has it
    own = [role for group in head.token_groups(inputs, ()) for role in group.roles]
    states = [role for role in own if role.startswith("state")]
    actions = [role for role in own if role.startswith("action")]
    roles = [*first, *seen, tokens[-1], *noisy, *actions, *states]
    sees: Any = policy.paradigm.sees
    mask = torch.tensor([[key in sees[query] for key in roles] for query in roles])
    assert torch.equal(mask, record["mask/train"].bool())


@pytest.mark.parametrize("steps", [4, 16])
def test_levels_are_those_of_the_published_sampler(
    policy: Policy, record: dict[str, Tensor], steps: int
) -> None:
    config = policy.spec.schedules.video.model_copy(
        update={"steps": steps, "evaluate_steps": "all"}
    )
    run = NoiseSchedule(config).init_sampler(torch.zeros(1))
    same_values(
        torch.tensor(run.nodes), record[f"levels/{steps}/sigmas"].float(), VERIFIED["levels"]
    )
    announced = []
    while not run.done:
        announced.append(round(1000 * run.sigma))
        run.step(torch.zeros(1))
    assert announced == record[f"levels/{steps}/timesteps"].tolist()


def observed(record: dict[str, Tensor], chunk: int, images: slice) -> Observation:
    left, right, wrist = record["run/images"][:, images]
    return Observation(
        {
            "exterior_image_1_left": left[None],
            "exterior_image_2_left": right[None],
            "wrist_image_left": wrist[None],
        },
        "Put the Cup on the plate",
        record["run/states"][chunk : chunk + 1],
    )


def test_an_episode_acts_as_the_published_policy(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {5: record["run/noise_video"], 3: record["run/noise_action"]}
    monkeypatch.setattr(interface, "draw_noise", lambda shape, *_, **__: noise[len(shape)])
    session = policy.session()
    for chunk, images in enumerate((slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 13))):
        observation = observed(record, chunk, images)
        if chunk < 2:
            canvas = policy.cameras.canvas(observation.images)[0].permute(1, 2, 3, 0)
            same_values((canvas + 1) * 127.5, record[f"ran/canvas.{chunk}"][0].float(), 1e-6)
        assert session.num_images == images.stop - images.start if chunk else 1
        values = session.act(observation).values[0]
        same_values(values, record[f"ran/actions.{chunk}"], VERIFIED["run"])


@pytest.fixture
def whole(record: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan of a checkpoint at its published size, of which only names and shapes are there."""

    def make(name: str, robot: str = "oxe_droid") -> ImportPlan:
        folder = checkpoint(record, tmp_path)
        facts = metadata(record) if robot == "oxe_droid" else {robot: agibot()}
        (folder / "experiment_cfg" / "metadata.json").write_text(json.dumps(facts))
        (folder / "config.json").write_text("{}")
        file = folder / "model-00001-of-00002.safetensors"
        entries = {k: Entry(file, k, tuple(shape), "BF16") for k, shape in published(name).items()}
        monkeypatch.setattr(Source, "_entries", lambda *_: entries)
        return plan_import(folder, None, ["text_encoder.name=bytes"])

    return make


def rows(size: int) -> dict[str, list[float]]:
    values = {"min": -3.0, "max": 3.0, "mean": 0.1, "std": 1.0, "q01": -2.0, "q99": 2.0}
    return {row: [value] * size for row, value in values.items()}


def agibot() -> dict[str, Any]:
    """`metadata.json` of the other released robot, with plausible statistics."""
    sizes = {"arm_joint": 7, "effector": 1}
    keys = {f"{side}_{k}_position": n for k, n in sizes.items() for side in ("left", "right")}
    keys |= {"head_position": 2, "waist_position": 2}
    kinds = {"state": keys, "action": {**keys, "robot_velocity": 2}}
    return {
        "statistics": {k: {key: rows(n) for key, n in v.items()} for k, v in kinds.items()},
        "modalities": {k: {key: {"shape": [n]} for key, n in v.items()} for k, v in kinds.items()},
    }


@pytest.mark.parametrize(
    ("name", "example"), [("14b", "dreamzero_14b.toml"), ("5b", "dreamzero_5b.toml")]
)
def test_every_tensor_of_a_published_checkpoint_is_accounted_for(
    whole: Any, name: str, example: str
) -> None:
    plan = whole(name)
    used = {entry.name for entries in plan.weights.values() for entry in entries.values()}
    left_out = {tensor for names in plan.dropped.values() for tensor in names}
    assert used | left_out == set(published(name)) and not used & left_out
    assert parse(dict(plan.imported.spec)) == parse(read(EXAMPLES / example))


def test_agibot_has_a_black_corner_and_a_prompt_of_its_own(whole: Any) -> None:
    spec = whole("14b", "agibot").spec
    assert spec.cameras.fill and spec.cameras.canvas == (352, 640)
    assert "black screen" in spec.text_encoder.prompt_template
    assert (spec.actions.size, spec.state.size) == (22, 20)


def test_the_imported_clip_tower_is_that_of_the_checkpoint(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    plan = plan_import(checkpoint(record, tmp_path / "released"), None, SIZES)
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    expected: Any = fill(ImageEncoder(clip_shape(16)), 12)
    found: Any = policy.conditioner
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in expected.state_dict().items())
    again = Policy.load(policy.save(tmp_path / "again"))
    assert again.spec == policy.spec


def test_adapters_that_were_never_merged_are_merged_by_the_scale_of_the_settings(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    plan = plan_import(checkpoint(record, tmp_path / "released", lora=True), None, SIZES)
    policy = Policy.load(plan.write(tmp_path / "policy", random_parts=True))
    start = "action_head.model."
    state = {k.removeprefix("weights/"): v for k, v in record.items() if k.startswith("weights/")}
    files = adapted(state)
    layer = f"{start}base_model.model.blocks.1.cross_attn.k."
    a, b = (files[f"{layer}lora_{x}.default.weight"] for x in "AB")
    found: Any = policy.backbone
    merged = state[f"{start}blocks.1.cross_attn.k.weight"] + 1.5 * b @ a
    same_values(found.blocks[1].attn2.to_k.weight, merged, 1e-6)
    head: Any = policy.action_head
    theirs = state[f"{start}action_encoder.W2.W"]
    assert torch.equal(head.action_embedder.W2.weight, theirs.transpose(1, 2))


@pytest.mark.parametrize(("evaluations", "made"), [(5, 5), (8, 8), (16, 16)])
def test_the_number_of_evaluations_is_an_option_of_the_import(
    record: dict[str, Tensor], tmp_path: Path, evaluations: int, made: int
) -> None:
    options = (*SIZES, f"importer.evaluations={evaluations}")
    spec = plan_import(checkpoint(record, tmp_path), None, options).spec
    assert spec.schedules.video.evaluations == spec.schedules.action.evaluations == made
    assert spec.paradigm.program(spec)[1].passes == made


def test_a_checkpoint_without_statistics_or_of_an_unknown_robot_is_refused(
    record: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = checkpoint(record, tmp_path)
    file = folder / "experiment_cfg" / "metadata.json"
    file.write_text(json.dumps({"some_arm": {}}))
    with pytest.raises(WamkitError, match=r"metadata\.json is of some_arm"):
        plan_import(folder, None, SIZES)
    file.unlink()
    with pytest.raises(WamkitError, match=r"no experiment_cfg/metadata\.json"):
        plan_import(folder, None, SIZES)

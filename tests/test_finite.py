"""No NaN and no infinity enters or leaves in silence: each is refused with its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import wamkit as package
from wamkit import Observation, Policy, WamkitError
from wamkit.checkpoints import assign, finite
from wamkit.checkpoints import safetensors as weights
from wamkit.config.parts import EnvironmentConfig
from wamkit.data import LeRobotFolder, Samples, check, compute_statistics
from wamkit.files import strict_json
from wamkit.policy import preprocessing
from wamkit.policy.actions import Statistics
from wamkit.policy.blame import expect_imagined
from wamkit.policy.build import resolve
from wamkit.policy.observation import Batch
from wamkit.policy.policy import generator
from wamkit.policy.precomputed_text import StoredEncoder
from wamkit.policy.precomputed_text import precompute as precompute_text
from wamkit.serve.client import Client
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.simulate import EnvObservation, EnvWorker, Robot, Step
from wamkit.testing.dataset import record
from wamkit.testing.fixtures import batch_of, observation, spec_with, with_overrides
from wamkit.train.config import read_config
from wamkit.train.optim import NoiseScale

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SMALL = Path(__file__).parent / "data" / "small.toml"
NAN, INF = float("nan"), float("inf")
Run = Callable[..., tuple[int, str, str]]


@cache
def spec() -> Any:
    return resolve(TOY, [], tiny=True)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return package.build(spec()).save(tmp_path / "saved")


def spoil(folder: Path, kind: str, value: float = NAN, half: bool = False) -> str:
    """Put a bad number into a saved part, and return the name of its tensor."""
    file = folder / f"{kind}.safetensors"
    state = load_file(file)
    name = next(name for name, x in state.items() if x.ndim == 2)
    state[name] = state[name].clone()
    state[name][1, 0] = value
    save_file({k: v.half() if half else v for k, v in state.items()}, file)
    return name


@pytest.mark.parametrize("kind", ["backbone", "action_head", "text_encoder"])
@pytest.mark.parametrize("value", [NAN, -INF])
def test_a_bad_weight_is_refused_at_load_with_its_tensor_and_file(
    saved: Path, kind: str, value: float
) -> None:
    name = spoil(saved, kind, value)
    with pytest.raises(WamkitError, match="NaN or infinity") as error:
        Policy.load(saved)
    message = f"{name} of {saved / kind}.safetensors: {value} at [1, 0], 1 of "
    assert message in str(error.value) and "download" in error.value.hint


def test_weights_that_float16_cannot_hold_are_refused(saved: Path) -> None:
    name = spoil(saved, "backbone", 1e6, half=True)
    with pytest.raises(WamkitError, match="inf at") as error:
        Policy.load(saved)
    assert name in str(error.value) and "float32 or bfloat16" in error.value.hint


def test_large_files_are_searched_when_a_chunk_is_not_finite(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = spoil(saved, "backbone")
    for module in (finite, assign):
        monkeypatch.setattr(module, "WHOLE", 0)
        monkeypatch.setattr(module, "SMALL", 0)
    policy, seen = Policy.load(saved), observation(spec(), batch=1)
    for act in (
        lambda: policy.act(seen, seed=0),
        lambda: policy.session().act(seen, seed=0),
        lambda: policy.imagine(seen, seed=0),
    ):
        with pytest.raises(WamkitError, match="not finite") as error:
            act()
        assert f"backbone.{name} ({name} of {saved / 'backbone'}.safetensors): nan" in str(
            error.value
        )


@pytest.mark.filterwarnings("ignore:.*is pickled")
def test_pickled_and_sharded_weights_are_looked_at(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in nn.Linear(3, 2).state_dict().items()}
    state["bias"][1] = INF
    torch.save(state, tmp_path / "a.pt")
    (tmp_path / "shards").mkdir()
    for name, value in state.items():
        save_file({name: value}, tmp_path / "shards" / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in state}}
    (tmp_path / "shards/model.safetensors.index.json").write_text(json.dumps(index))
    for path, file in (("a.pt", "a.pt"), ("shards", "shards/bias.safetensors")):
        with torch.device("meta"):
            model = nn.Linear(3, 2)
        with pytest.raises(WamkitError, match="NaN or infinity") as error:
            weights.load(model, tmp_path / path)
        assert f"bias of {tmp_path / file}: inf at [1], 1 of 2 values" in str(error.value)


def test_a_conversion_that_overflows_is_named(tmp_path: Path) -> None:
    wide = nn.Linear(2, 2).double()
    wide.weight.data[0, 1] = 1e300
    weights.save(wide, tmp_path / "wide.safetensors")
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    weights.load(model, tmp_path / "wide.safetensors")
    with pytest.raises(WamkitError, match=r"from torch.float64 to torch.float32: inf at \[0, 1\]"):
        weights.cast(model, torch.float32)


def test_an_overflow_in_the_network_is_distinguished_from_bad_weights() -> None:
    policy = package.build(with_overrides(spec(), "dtype=bfloat16"))
    name, weight = next((n, p) for n, p in policy.backbone.named_parameters() if p.ndim == 2)
    weight.data.fill_(3e38)
    with pytest.raises(WamkitError, match="overflow in bfloat16") as error:
        policy.act(observation(policy.spec, batch=1), seed=0)
    assert f"3e+38, in backbone.{name}" in str(error.value) and "dtype=float32" in error.value.hint


def test_statistics_that_overflow_a_chunk_are_to_blame() -> None:
    policy, size = package.build(spec()), spec().actions.size
    row = (3e38,) * size
    low = tuple(-x for x in row)
    policy.set_statistics({"action": Statistics(low, row, (0.0,) * size, row, low, row)})
    policy.actions.normalizer.half.fill_(1e300)
    with pytest.raises(WamkitError, match="with the statistics of") as error:
        policy.act(observation(policy.spec, batch=1), seed=0)
    assert "wamkit data stats" in error.value.hint


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NaN", "is no valid JSON: it holds NaN"),
        ("Infinity", "is no valid JSON: it holds Infinity"),
        ("1e39", "number 0 has min"),
        ('"nan"', "min holds a str, expected numbers"),
    ],
)
def test_statistics_files_with_bad_values_are_refused(saved: Path, text: str, found: str) -> None:
    rows = {k: [0.5] * 4 for k in ("min", "max", "mean", "std", "q01", "q99")}
    text = json.dumps({"action": rows}).replace("0.5", text, 1)
    (saved / "statistics.json").write_text(text)
    with pytest.raises(WamkitError, match=rf"statistics.json.* {found}"):
        Policy.load(saved)


def test_the_command_line_prints_no_nan(wamkit: Run, saved: Path) -> None:
    spoil(saved, "backbone")
    photo = TOY.parent / "images" / "coffee.jpg"
    for more in ((), ("--json",)):
        code, out, err = wamkit("act", saved, "--image", photo, "--prompt", "go", *more)
        assert code == 2 and "NaN or infinity" in err and not out


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "key",
    [
        "actions.clip",
        "schedules.action.guidance_scale",
        "schedules.video.sampling_args.mean",
        "actions.control_hz",
    ],
)
def test_settings_are_finite(key: str, word: str) -> None:
    with pytest.raises(WamkitError, match=f"{key}: "):
        resolve(TOY, [f"{key}={word}"])


def test_training_settings_are_finite() -> None:
    for setting in ("lr=nan", "max_grad_norm=inf", "betas=[0.9, nan]", "parts.backbone.lr=inf"):
        with pytest.raises(WamkitError, match="finite number"):
            read_config(None, [setting])


def test_stored_embeddings_are_looked_at_when_they_are_read(tmp_path: Path) -> None:
    config, file = spec().text_encoder, tmp_path / "text.safetensors"
    precompute_text(config, ["go", "stay"], file)
    from safetensors import safe_open

    with safe_open(file, "pt") as reader:
        about = reader.metadata()
    state = {k: v.clone() for k, v in load_file(file).items()}
    state["1.tokens"][0, 0, 3] = NAN
    save_file(state, file, metadata=about)
    encoder = StoredEncoder(file, config)
    assert encoder.encode(["go"]).tokens.isfinite().all()
    with pytest.raises(WamkitError, match=r"text.safetensors: the embedding of 'stay' is not"):
        encoder.encode(["stay"])


def test_a_batch_holds_finite_values() -> None:
    batch = batch_of(spec())
    batch.actions[1, 2, 0] = INF
    with pytest.raises(WamkitError, match=r"actions of a batch are not finite: inf at \[1, 2, 0\]"):
        Batch(batch.observation, batch.actions)


@pytest.mark.parametrize("value", [NAN, 1e39])
def test_recorded_actions_are_refused_with_episode_frame_and_number(
    tmp_path: Path, value: float
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    small = resolve(SMALL, [])
    folder = record(tmp_path / "set", small, image_format="image", size=(16, 32))
    file = next((folder / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    rows = table["action"].to_pylist()
    rows[12 + 7][2] = value
    place = table.column_names.index("action")
    wide = pa.array(rows, pa.list_(pa.float64()))
    pq.write_table(table.set_column(place, "action", wide), file)
    with pytest.raises(WamkitError, match="in episode 1, frame 7, number 2") as error:
        Samples(folder, small)
    assert f"'action' is {value} in" in str(error.value)
    with pytest.raises(WamkitError, match="in episode 1, frame 7, number 2"):
        compute_statistics(LeRobotFolder(folder), small)
    (found,) = check(folder, small)
    assert (found.episode, found.frame) == (1, 7) and found.why.endswith("first number 2")


def test_a_session_refuses_executed_actions_that_are_not_finite() -> None:
    policy = package.build(spec_with(backbone="toy", action_head="mot", paradigm="autoregressive"))
    session = policy.session()
    chunk = session.act(observation(policy.spec, batch=1), seed=0)
    done = chunk.values.clone()
    done[0, 1, 0] = NAN
    seen = observation(policy.spec, batch=1, frames=session.num_images)
    with pytest.raises(WamkitError, match=r"executed actions are not finite: nan at \[0, 1, 0\]"):
        session.act(seen, done)
    assert session.act(seen, chunk.values).values.isfinite().all()


def test_a_session_begins_anew_after_a_chunk_that_is_not_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = package.build(spec_with(backbone="toy", action_head="mot", paradigm="autoregressive"))
    session = policy.session()
    session.act(observation(policy.spec, batch=1), seed=0)
    weight = next(p for p in policy.backbone.parameters() if p.ndim == 2)
    healthy = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = NAN
    with pytest.raises(WamkitError, match="not finite") as error:
        session.act(observation(policy.spec, batch=1, frames=session.num_images), seed=0)
    assert "go on with a new one" in error.value.hint
    with torch.no_grad():
        weight.copy_(healthy)
    assert session.num_images == policy.spec.video.num_observed
    again = session.act(observation(policy.spec, batch=1), seed=0).values
    assert torch.equal(
        again, policy.session().act(observation(policy.spec, batch=1), seed=0).values
    )


def test_robots_get_no_action_that_is_not_finite() -> None:
    robot = Robot({}, (), ("dx", "dy"), (-1.0, -1.0), (1.0, 1.0), 10.0)
    with pytest.raises(WamkitError, match="an action is not finite: nan for 'dy'"):
        robot.clip_action(np.array([0.0, NAN]))


class Shaky(EnvironmentConfig):
    """Says something that is no number, for tests."""

    name: Literal["shaky"] = "shaky"
    fault: Literal["state", "reward", "image"]

    def build(self) -> ShakyEnvironment:
        return ShakyEnvironment(self.fault)


class ShakyEnvironment:
    robot = Robot({"side": (8, 8)}, ("x", "y"), ("dx",), (-1.0,), (1.0,), 10.0)

    def __init__(self, fault: str) -> None:
        self.fault, self.step_number = fault, 0

    def reset(self, seed: int) -> None:
        self.step_number = 0

    def see(self) -> EnvObservation:
        late = self.step_number > 1
        state = np.array([0.0, NAN if self.fault == "state" and late else 1.0], np.float32)
        dtype = np.uint16 if self.fault == "image" and late else np.uint8
        return EnvObservation({"side": np.zeros((8, 8, 3), dtype)}, state, "go")

    def step(self, action: Any) -> Step:
        self.step_number += 1
        return Step(INF if self.fault == "reward" and self.step_number > 1 else 0.0, False)

    def expert(self, seed: int) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("state", "environment shaky, step 2: the state is nan at 'y'"),
        ("reward", "environment shaky gives a reward of inf at step 2"),
        ("image", r"environment shaky, step 2: camera 'side' shows uint16 \[8, 8, 3\]"),
    ],
)
def test_what_an_environment_states_is_looked_at(fault: str, message: str) -> None:
    host = EnvWorker(Shaky(fault=fault))
    host.reset(0)
    host.advance(np.zeros((1, 1)), 1)
    with pytest.raises(WamkitError, match=message):
        host.advance(np.zeros((1, 1)), 1)


def test_a_server_answers_with_a_message_and_goes_on() -> None:
    policy = package.build(spec())
    weight = next(p for p in policy.backbone.parameters() if p.ndim == 2)
    healthy = weight.detach().clone()
    request = {f"observation/{spec().cameras.views[0].name}": np.zeros((32, 32, 3), np.uint8)}
    request |= {"prompt": "go", "seed": 0}
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy, "toy"), listener), Client(*address_of(listener)) as client:
        first = client.infer(request)["actions"]
        with torch.no_grad():
            weight[0, 0] = NAN
        with pytest.raises(WamkitError, match="not finite"):
            client.infer(request)
        with torch.no_grad():
            weight.copy_(healthy)
        assert np.array_equal(client.infer(request)["actions"], first)


def test_json_writes_every_float() -> None:
    assert strict_json.loads(strict_json.dumps({"a": [1.5, None]})) == {"a": [1.5, None]}
    with pytest.raises(WamkitError, match=r"a\[1\]\.b is nan, and JSON has no such number"):
        strict_json.dumps({"a": [1, {"b": NAN}]})
    for text in ("[NaN]", '{"a": -Infinity}'):
        with pytest.raises(ValueError, match="no number in JSON"):
            strict_json.loads(text)


def test_the_noise_scale_passes_over_what_is_too_large() -> None:
    scale = NoiseScale()
    scale.update(2, 4.0, 8, 2.0)
    before = dict(vars(scale))
    scale.update(2, INF, 8, INF)
    assert vars(scale) == before


def test_observations_name_the_number_of_the_state() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(WamkitError, match="inf at number 2"):
        Observation({"front": image}, "go", [0.0, 1.0, 1e39])


def test_a_saved_policy_that_is_whole_still_loads(saved: Path, tmp_path: Path) -> None:
    again = shutil.copytree(saved, tmp_path / "again")
    assert Policy.load(again).act(observation(spec(), batch=1), seed=0).values.isfinite().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_infinite_future_is_not_cut_to_white_or_black(value: float) -> None:
    policy, seen = package.build(spec()), observation(spec(), batch=2)
    inputs = preprocessing.inference_inputs(policy, seen)
    model = policy.model_with_cfg(inputs)
    clip = policy.paradigm.imagine(model, inputs, policy.schedules, generator(0))
    expect_imagined(policy, preprocessing.decode_video(policy, clip, seen), seen)
    clip.z[1, 0, -1, 0, 0] = value
    images = preprocessing.decode_video(policy, clip, seen)
    assert images[0].isfinite().all() and not images[1].isfinite().all()
    with pytest.raises(WamkitError, match="imagined images are not finite: nan at"):
        expect_imagined(policy, images, seen)

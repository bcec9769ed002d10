"""Several actions from one state, imagined and simulated: metrics, replayed episodes, files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_specs import actions, small_spec

from wamkit.cli.probe import RANKING, RESPONSE
from wamkit.config.parts import EnvironmentConfig
from wamkit.config.robot import ActionConfig
from wamkit.config.spec import PolicySpec, parse
from wamkit.errors import WamkitError
from wamkit.evaluate.candidates import candidates
from wamkit.evaluate.counterfactual import over_contexts, ranking, response
from wamkit.evaluate.image_quality import METRICS
from wamkit.evaluate.probe import Prober, probe, summarize
from wamkit.evaluate.sheets import write_sheet
from wamkit.policy.build import build
from wamkit.policy.observation import Imagined, Observation
from wamkit.policy.policy import Policy
from wamkit.simulate import EnvObservation, EnvPool, Robot, Step
from wamkit.simulate.branching import branch
from wamkit.simulate.holding import hold_action
from wamkit.testing.parity import same_values

Wamkit = Callable[..., tuple[int, str, str]]
PUSHT = pytest.mark.skipif(find_spec("gym_pusht") is None, reason="gym-pusht is missing")
SIZE = 32
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "imagination.md").read_text()


class Cart(EnvironmentConfig):
    """A bar that the action moves over the image, for tests."""

    name: Literal["cart"] = "cart"
    max_steps: int = 12
    drifts: bool = False
    """An episode depends on those before it."""

    def build(self) -> CartEnvironment:
        return CartEnvironment(self)


class CartEnvironment:
    def __init__(self, config: Cart) -> None:
        self.config, self.episodes = config, 0
        self.robot = Robot({"side": (SIZE, SIZE)}, ("x",), ("dx",), (-2.0,), (2.0,), 10.0)

    def reset(self, seed: int) -> None:
        self.x = 4.0 + seed % 3 + self.episodes * self.config.drifts
        self.episodes += 1

    def see(self) -> EnvObservation:
        return EnvObservation({"side": draw(self.x)}, np.array([self.x], np.float32), "go right")

    def step(self, action: NDArray[np.float32]) -> Step:
        self.x = float(np.clip(self.x + action[0], 0, SIZE - 4))
        return Step(self.x, self.x >= 20)

    def expert(self, seed: int) -> CartExpert:
        return CartExpert()

    def close(self) -> None: ...


class CartExpert:
    def act(self, seen: EnvObservation) -> NDArray[Any]:
        return np.array([1.5])


def draw(x: float) -> NDArray[np.uint8]:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:, round(x) : round(x) + 4] = 255
    return image


def spec(**changes: Any) -> PolicySpec:
    tables: dict[str, Any] = {
        "text_encoder": {"name": "bytes", "max_length": 40},
        "paradigm": {"name": "conditional"},
        "actions": actions("dx", 1, kind="delta", normalization="none"),
        "state": {"size": 1, "normalization": "none"},
    }
    return small_spec(SIZE, **{**tables, **changes})


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build(spec())


def prober(policy: Policy, **settings: Any) -> Prober:
    return Prober(policy, {"side": "side"}, EnvPool(Cart(**settings), 1, apart=False))


def test_a_perfect_a_reversed_and_an_indifferent_model_are_distinguished() -> None:
    rng = np.random.default_rng(0)
    start = rng.random(50)
    real = start + rng.normal(size=(5, 50))
    perfect = response(start, real, real)
    assert perfect["separation"] == pytest.approx(1) and perfect["direction"] == pytest.approx(1)
    assert perfect["geometry"] == pytest.approx(1) and perfect["p_value"] < 0.05
    same_values(perfect["error"], 0.0, 1e-9, scale=1.0)
    length = np.linalg.norm(real - start, axis=1).mean() / 50**0.5
    assert perfect["still"] == pytest.approx(length)
    reversed_ = response(start, 2 * start - real, real)
    assert reversed_["separation"] == pytest.approx(1)
    assert reversed_["direction"] == pytest.approx(-1)
    same = response(start, np.repeat(real[:1], 5, 0), real)
    same_values(same["separation"], 0.0, 1e-9, scale=1.0)
    half = response(start, start + (real - start) / 2, real)
    assert half["separation"] == pytest.approx(0.5) and half["direction"] == pytest.approx(1)


def test_ranking_is_of_scores_and_regret_of_real_ones() -> None:
    real = {"a": 1.0, "b": 2.0, "c": 4.0}
    assert ranking(real, real) == {"spearman": 1.0, "pairwise": 1.0, "regret": 0.0}
    backwards = ranking({"a": 3.0, "b": 2.0, "c": 1.0}, real)
    assert backwards == {"spearman": -1.0, "pairwise": 0.0, "regret": 3.0}
    rows = [{"regret": 0.0}, {"regret": 3.0}]
    found = over_contexts(rows)["regret"]
    assert found["mean"] == 1.5 and found["interval_95"] == [0.0, 3.0]
    assert over_contexts(rows[:1])["regret"] == {"mean": 0.0, "interval_95": None}


def test_candidates_are_within_limits_and_follow_the_kind_of_each_group() -> None:
    groups = [{"name": "move", "size": 1, "kind": "delta"}, {"name": "grip", "size": 1}]
    config = ActionConfig.model_validate({"chunk_size": 3, "control_hz": 10, "groups": groups})
    robot = Robot({}, (), ("move", "grip"), (-1.0, 0.0), (1.0, 1.0), 10.0)
    demonstrated = np.array([[0.5, 0.2], [2.0, 0.3], [-0.5, 0.4]], np.float32)
    hold = hold_action(config, np.array([0.9, 0.7], np.float32))
    found = candidates(config, robot, demonstrated, hold, np.random.default_rng(0))
    assert list(found) == ["demonstrated", "hold", "mirrored", "random_1", "random_2"]
    same_values(found["hold"], [[0, 0.7]] * 3, 1e-6)
    same_values(found["mirrored"], [[-0.5, 0.2], [-1, 0.3], [0.5, 0.4]], 1e-6)
    for made in found.values():
        assert (made >= robot.low).all() and (made <= robot.high).all()
    assert (found["random_1"] == found["random_1"][0]).all()
    absolute = config.model_copy(update={"groups": config.groups[1:] * 2})
    left = candidates(absolute, robot, demonstrated, None, np.random.default_rng(0))
    assert list(left) == ["demonstrated", "random_1", "random_2"]


def test_a_target_is_not_held_at_zero_before_the_first_action(policy: Policy) -> None:
    (delta,) = prober(policy).probe(0, 1, "expert")
    assert "hold" in delta.returns
    groups = [{"name": "x", "size": 1, "normalization": "none"}]
    absolute = build(spec(actions={"chunk_size": 4, "control_hz": 10, "groups": groups}))
    begin, later = prober(absolute).probe(0, 2, "expert")
    assert begin.step == 0 and "hold" not in begin.returns and "hold" in later.returns
    assert "hold" in summarize([begin, later])["actions"]


def test_an_episode_is_replayed_to_where_futures_part() -> None:
    workers = EnvPool(Cart(), 2, apart=False)
    before = np.full((2, 1), 1.5, np.float32)
    chunks = [np.full((4, 1), step, np.float32) for step in (1.0, -1.0, 2.0)]
    expected = EnvObservation({"side": draw(8.0)}, np.array([8.0], np.float32), "")
    found = branch(workers, 1, before, chunks, [2, 4], expected)
    assert [one.seen[2].state[0] for one in found] == [10, 6, 12]
    assert [one.seen[4].state[0] for one in found] == [12, 4, 16]
    assert found[0].rewards == (9, 10, 11, 12) and not found[0].success


def test_after_success_the_last_frame_and_reward_stay() -> None:
    workers = EnvPool(Cart(), 1, apart=False)
    before = np.full((8, 1), 1.5, np.float32)
    expected = EnvObservation({"side": draw(16.0)}, np.array([16.0], np.float32), "")
    (found,) = branch(workers, 0, before, [np.full((4, 1), 2.0, np.float32)], [4], expected)
    assert found.success and found.rewards == (18, 20, 20, 20) and found.seen[4].state[0] == 20


def test_an_environment_that_does_not_repeat_itself_is_refused(policy: Policy) -> None:
    with pytest.raises(WamkitError, match="does not repeat the episode of seed 3") as problem:
        prober(policy, drifts=True).probe(3, 2, "expert")
    assert "a value of its state is off by" in problem.value.what


class Oracle:
    """Imagines what the cart does, or its mirror image."""

    def __init__(self, policy: Policy, sign: float) -> None:
        self.policy, self.sign = policy, sign

    def __call__(self, seen: Observation, *, actions: torch.Tensor, seed: Any) -> Imagined:
        assert seen.state is not None and len(set(seed)) == 1
        places = [seen.state[:, 0]]
        for step in actions[..., 0].unbind(1):  # an episode ends with success
            moved = (places[-1] + self.sign * step).clamp(0, SIZE - 4)
            places.append(torch.where(places[-1] >= 20, places[-1], moved))
        ends = torch.stack(places[2::2], 1)
        images = [
            [draw(float(x)) for x in (row_start, *row)]
            for row_start, row in zip(seen.state[:, 0], ends, strict=True)
        ]
        clip = torch.from_numpy(np.array(images)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        value = self.sign * ends[:, -1] / SIZE
        return Imagined(clip, 1, {"side": clip}, value, ends[:, -1:])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_policy_that_knows_the_world_passes_and_one_that_mirrors_it_does_not(
    policy: Policy, sign: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = prober(policy)
    monkeypatch.setattr(policy, "imagine", Oracle(policy, sign))
    found = summarize(probe(chosen, [0, 1], 2, "expert"))
    assert found["states"] == 4 and found["actions"][-1] == "policy"
    state = {name: one["mean"] for name, one in found["state"].items()}
    assert state["separation"] == pytest.approx(1, rel=0.1)
    assert state["direction"] == pytest.approx(sign, rel=0.1)
    if sign > 0:
        assert state["error"] == pytest.approx(0, abs=1e-5) and state["still"] > 0.5
        images = {name: one["mean"] for name, one in found["images"].items()}
        assert images["direction"] == pytest.approx(1)
        same_values(images["error"], 0.0, 1e-9, scale=1.0)
        assert found["value"]["spearman"]["mean"] == pytest.approx(1)
        assert found["goal"]["regret"]["mean"] == 0
    assert found["per_state"][0].keys() >= {"seed", "step", "returns", "images", "state"}


def test_a_sheet_shows_every_action(policy: Policy, tmp_path: Path) -> None:
    from PIL import Image

    (one,) = prober(policy).probe(0, 1, "random")
    assert one.step == 0 and "goal" not in one.metrics
    write_sheet(one, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (64 + 7 * 132, 16 + 2 * 132)
    assert prober(policy, max_steps=3).probe(0, 1, "random") == []
    with pytest.raises(WamkitError, match="as long as a chunk of 4 actions"):
        probe(prober(policy, max_steps=3), [0], 1, "random")


def test_a_policy_whose_future_ignores_the_action_is_refused() -> None:
    with pytest.raises(WamkitError, match="do not attend to the action"):
        prober(build(spec(paradigm={"name": "single_pass"})))
    far = build(spec(video={"num_frames": 2, "frame_stride": 8}))
    with pytest.raises(WamkitError, match="first imagined frame is 8 actions ahead"):
        prober(far)


def test_the_commands_and_the_code_of_the_page_run(
    wamkit: Wamkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("metaworld")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
    lines = [line for kind, text in blocks if kind == "bash" for line in text.splitlines()]
    assert len(lines) == 5
    printed = {}
    for line in lines:
        here = ("--processes", 1) if "metaworld:" in line else ()
        code, out, err = wamkit(*shlex.split(line)[1:], *here)
        assert code == 0, f"{line}\n{err}"
        printed[line.split()[1]] = out
    assert "imagined held-out frames: PSNR" in printed["train"]
    assert "predicted next state" in printed["probe"] and "HaarPSI" in printed["eval"]
    imagined = json.loads(Path("out/films/eval.json").read_text())["imagined"]
    assert imagined[0]["seconds"] == pytest.approx(0.1)
    scope: dict[str, Any] = {}
    for kind, text in blocks:
        if kind == "python":
            exec(text, scope)
    assert scope["changed"] > 0


def test_the_page_names_every_metric() -> None:
    for name in (*RESPONSE, *RANKING):
        assert name in PAGE
    for metric in METRICS.values():
        assert metric.label in PAGE


@PUSHT
def test_probing_as_it_is_typed(wamkit: Wamkit, tmp_path: Path) -> None:
    raw = spec().dump()
    raw["actions"]["groups"] = [{"name": "disk", "size": 2}]
    raw["cameras"]["views"][0]["name"] = "top"
    raw["state"]["size"] = 2
    saved = build(parse(raw).fitted()).save(tmp_path / "policy")
    args = ("probe", saved, "--env", "pusht", "--episodes", 1, "--states", 2, "--processes", 0)
    given = ("max_steps=8", "size=32", "candidates=2")
    small = [word for one in given for word in ("--env-arg", one)]
    code, out, err = wamkit(*args, *small, "--out", tmp_path / "probed")
    assert code == 0, err
    assert "separation" in out and "2 states of expert episodes, 0.4 s ahead" in out
    kept = json.loads((tmp_path / "probed" / "probe.json").read_text())
    assert kept["states_of"] == "expert" and len(kept["per_state"]) == 2
    assert len(list((tmp_path / "probed").glob("1000_*.png"))) == 2
    code, out, _ = wamkit(*args, *small, "--json")
    assert json.loads(out)["images"].keys() == kept["images"].keys()  # PushT varies by contacts
    code, _, err = wamkit(*args, *small, "--out", tmp_path / "probed")
    assert code == 2 and "is there already" in err
    code, _, err = wamkit(*args, "--camera-map", "top")
    assert code == 2 and "has no '='" in err

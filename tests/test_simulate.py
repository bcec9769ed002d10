"""Policies and experts in simulators: scores, closed loop, what is kept, what is refused."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rails import SIZE, Rail, RailEnvironment
from small_specs import actions, small_spec

from wamkit.config.spec import PolicySpec
from wamkit.data import LeRobotFolder, check
from wamkit.data.reader import ColumnStore
from wamkit.errors import WamkitError
from wamkit.policy.build import build
from wamkit.policy.policy import Policy
from wamkit.simulate import EnvObservation, EnvPool, EnvWorker, choose
from wamkit.simulate.compatibility import conflicts, views_of
from wamkit.simulate.episodes import Rollout
from wamkit.simulate.metrics import latencies, summary, wilson
from wamkit.simulate.policy_runner import PolicyRunner
from wamkit.simulate.record import CollectionConfig, collect, open_dataset
from wamkit.simulate.rollout import evaluate, play
from wamkit.simulate.video import video_frames, write_video
from wamkit.testing.environment import expect_environment
from wamkit.testing.parity import same_values


def spec(**changes: Any) -> PolicySpec:
    """A policy for the rail: smallest parts, random weights."""
    tables: dict[str, Any] = {
        "actions": actions("dx", 1),
        "video": {"num_frames": 2, "frame_stride": 4},
    }
    return small_spec(SIZE, **{**tables, **changes})


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build(spec())


def here(count: int = 1, **settings: Any) -> EnvPool:
    """Rails in this process."""
    return EnvPool(Rail(**settings), count, apart=False)


def runner(policy: Policy, execute_steps: int = 2, **settings: Any) -> PolicyRunner:
    return PolicyRunner(policy, {"side": "side"}, execute_steps, {}, **settings)


def test_the_interval_is_wilsons() -> None:
    # Numbers of Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    for successes, attempts, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(successes, attempts) == pytest.approx((low, high), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0


def test_the_rail_keeps_the_contract() -> None:
    expect_environment(Rail())


def test_a_pool_changes_its_environment_in_every_process() -> None:
    with here(2) as workers:
        (first,) = play(workers, [1], "random")
        workers.switch(Rail(max_steps=3))
        assert {one.steps for one in play(workers, [1, 2, 3], "random")} == {3}
        assert first.steps > 3 and workers.config == Rail(max_steps=3)


def test_an_expert_that_reads_no_images_is_shown_none_unless_they_are_kept() -> None:
    host = EnvWorker(Rail())
    rail = host.environment

    class Knowing:
        reads_images = False

        def act(self, seen: EnvObservation) -> NDArray[Any]:
            assert seen is not None
            return np.array([rail.goal - rail.x])

    rail.expert = lambda seed: Knowing()
    blind = host.play(3, "expert", 0.0, 0, False)
    assert blind.success and blind.steps > 2 and rail.seen == 1
    kept = host.play(3, "expert", 0.0, 0, True)
    assert kept.steps == blind.steps and len(kept.frames) == kept.steps
    assert rail.seen == 1 + kept.steps + 1


def test_an_expert_succeeds_and_chance_does_not() -> None:
    with here() as workers:
        good = summary(list(play(workers, range(5), "expert")))
        bad = summary(list(play(workers, range(5), "random")))
    assert good["success_rate"] == 1 and good["steps_to_success"] < 12
    assert bad["successes"] < 5 and good["seeds"] == [0, 1, 2, 3, 4]


def test_the_recorded_action_is_the_intended_one_without_noise() -> None:
    host = EnvWorker(Rail())
    calm, shaken = (host.play(3, "expert", noise, 0, True) for noise in (0.0, 0.8))
    assert [f.action.tolist() for f in calm.frames] != [f.action.tolist() for f in shaken.frames]
    for frame in shaken.frames:
        x, goal = frame.seen.state
        assert frame.action[0] == pytest.approx(np.clip(goal - x, -0.25, 0.25))


def test_an_episode_lingers_after_success_and_is_seen_to_its_end() -> None:
    plain, longer = (
        EnvWorker(Rail()).play(3, "expert", 0.0, post_success_steps, True)
        for post_success_steps in (0, 3)
    )
    assert longer.steps == plain.steps + 3 == len(longer.frames)
    assert longer.last is not None and longer.frames[-1].success


def test_a_policy_is_asked_again_after_so_many_actions(policy: Policy) -> None:
    with here(max_steps=8, near=0) as workers:
        for execute_steps, decisions in ((1, 8), (2, 4), (3, 3), (4, 2)):
            seconds: dict[str, list[float]] = {}
            (rollout,) = evaluate(workers, [5], runner(policy, execute_steps), seconds)
            assert not rollout.success and rollout.steps == 8
            assert len(seconds["policy"]) == decisions and len(seconds["environment"]) == 8
    assert set(latencies(seconds)) == {"observation", "policy", "environment"}


def test_between_decisions_nobody_looks_unless_frames_are_kept(policy: Policy) -> None:
    with here(max_steps=8, near=0) as workers:
        environment = workers._here[0].environment
        list(evaluate(workers, [5], runner(policy, 4), {}))
        assert environment.seen == 1 + 1
        (kept,) = evaluate(workers, [5], runner(policy, 4), {}, keep=True)
        assert environment.seen == 2 + 1 + 8 and len(kept.frames) == 8


def test_the_same_seeds_give_the_same_episodes(policy: Policy) -> None:
    runs = []
    for _ in range(2):
        with here(2) as workers:
            runs.append(_actions(evaluate(workers, range(4), runner(policy), {}, keep=True)))
    assert all(np.array_equal(runs[0][seed], runs[1][seed]) for seed in range(4))


def test_episodes_side_by_side_are_those_one_by_one(policy: Policy) -> None:
    with here(1) as one, here(3) as three:
        alone = _actions(evaluate(one, range(5), runner(policy), {}, keep=True))
        together = _actions(evaluate(three, range(5), runner(policy), {}, keep=True))
    for seed in range(5):
        same_values(alone[seed], together[seed])


def _actions(attempts: Any) -> Mapping[int, NDArray[Any]]:
    return {a.seed: np.stack([f.action for f in a.frames]) for a in attempts}


def test_several_observed_images_are_those_of_training() -> None:
    two = build(spec(video={"num_frames": 3, "num_observed": 2, "frame_stride": 3}))
    looking = runner(two, 4)
    assert looking.every == 1
    frames: list[list[int]] = []
    act = two.act

    def spied(observation: Any, **given: Any) -> Any:
        clip = observation.images["side"][0, :, 0].amax(1)  # the cart is red
        frames.append(clip.argmax(-1).tolist())
        return act(observation, **given)

    object.__setattr__(two, "act", spied)
    with here(max_steps=8, near=0) as workers:
        (rollout,) = evaluate(workers, [5], looking, {}, keep=True)
    assert rollout.steps == 8
    columns = [int((float(f.seen.state[0]) + 1) / 2 * (SIZE - 1)) for f in rollout.frames]
    assert frames == [[columns[0], columns[0]], [columns[1], columns[4]]]


def test_imagined_frames_are_drawn_next_to_real_ones(policy: Policy, tmp_path: Path) -> None:
    with here(max_steps=4, near=0) as workers:
        (rollout,) = evaluate(workers, [5], runner(policy, 2, imagine=True), {}, keep=True)
    assert set(rollout.imagined) == {0, 2}
    assert rollout.imagined[0]["side"].shape == (1, SIZE, SIZE, 3)
    frames = list(video_frames(rollout, every=4))
    edge = 192 + 2 * 4
    assert len(frames) == 5 and frames[0].shape == (edge, 2 * edge, 3)
    write_video(rollout, tmp_path / "a.gif", 10, 4)
    write_video(rollout, tmp_path / "a.mp4", 10, 4)
    assert (tmp_path / "a.gif").stat().st_size and (tmp_path / "a.mp4").stat().st_size


def test_only_successes_are_kept(tmp_path: Path) -> None:
    with here(broken=3) as workers, open_dataset(tmp_path / "d", workers.robot(), "image") as made:
        seeds_seen: list[int] = []
        done = collect(
            workers,
            made,
            4,
            post_success_steps=1,
            noise=0.0,
            on_rollout=lambda a: seeds_seen.append(a.seed),
        )
    assert seeds_seen == [0, 1, 2, 3, 4, 5] and done.attempts == 6 and done.seeds == (0, 5)
    found = LeRobotFolder(tmp_path / "d")
    assert len(found.episodes) == 4 and found.fps == 10
    assert sum(e.length for e in found.episodes) == done.frames
    assert list(found.tasks.values()) == ["go to the goal"]
    assert found.features["action"].names == ["dx"]


def test_episodes_are_added_to_those_there(tmp_path: Path) -> None:
    for seed in (0, 2):
        with here() as workers, open_dataset(tmp_path / "d", workers.robot(), "image") as made:
            collect(workers, made, 2, seed=seed)
    assert len(LeRobotFolder(tmp_path / "d").episodes) == 4


def test_an_expert_that_fails_too_often_is_given_up(tmp_path: Path) -> None:
    with (
        pytest.raises(WamkitError, match="the expert solved 0 of 14 attempts, and 1 episodes"),
        here(broken=1) as workers,
        open_dataset(tmp_path / "d", workers.robot(), "image") as made,
    ):
        collect(workers, made, 1)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        here(stops_at=2) as workers,
        open_dataset(tmp_path / "d", workers.robot(), "video") as made,
    ):
        collect(workers, made, 4)
    assert not list(tmp_path.iterdir()) and workers._here[0].environment.closed


def _collected(folder: Path, episodes: int, stops_at: int | None = None) -> list[int]:
    """The seeds that a collection tries, up to Ctrl-C."""
    seeds_seen: list[int] = []
    with (
        here(broken=3) as workers,
        open_dataset(folder, workers.robot(), "video") as made,
    ):
        steps = workers._here[0].environment
        steps.config = Rail(broken=3, stops_at=stops_at)
        collect(
            workers, made, episodes, keep_every=2, on_rollout=lambda a: seeds_seen.append(a.seed)
        )
    return seeds_seen


def test_a_collection_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _collected(whole, 5) == [0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(KeyboardInterrupt):
        _collected(parts, 5, stops_at=5)
    asked = CollectionConfig(Rail(broken=3))
    assert asked.count_kept(parts) == 3 and not CollectionConfig(Rail(broken=3), seed=9).count_kept(
        parts
    )
    assert _collected(parts, 5) == [5, 6, 7] and _collected(parts, 5) == []
    assert check(parts, decode=True) == []
    assert len(list(tmp_path.iterdir())) == 2
    names = ("observation.state", "action", "index", "episode_index")
    one, two = (ColumnStore(r, r.episodes, names) for r in map(LeRobotFolder, (whole, parts)))
    for name in names:
        np.testing.assert_array_equal(one[name], two[name])
    assert _collected(parts, 6) == [8] and asked.count_kept(parts) == 6


def test_ctrl_c_while_an_episode_is_written_keeps_it(tmp_path: Path) -> None:
    def on_rollout(rollout: Rollout) -> None:
        if rollout.seed == 1:
            signal.raise_signal(signal.SIGINT)

    with (
        pytest.raises(KeyboardInterrupt),
        here() as workers,
        open_dataset(tmp_path / "d", workers.robot(), "video") as made,
    ):
        collect(workers, made, 4, keep_every=10, on_rollout=on_rollout)
    assert CollectionConfig(Rail()).count_kept(tmp_path / "d") == 2 and check(tmp_path / "d") == []


def test_ctrl_c_before_the_first_episode_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _collected(tmp_path / "d", 4, stops_at=1)
    assert not list(tmp_path.iterdir())


def test_every_mismatch_is_reported_at_once() -> None:
    other = spec(
        actions={"chunk_size": 4, "control_hz": 5, "groups": [{"name": "arm", "size": 3}]},
        state={"size": 7},
        cameras={
            "views": [{"name": "front", "size": [16, 16]}, {"name": "wrist", "size": [16, 16]}]
        },
    )
    robot = RailEnvironment(Rail()).robot
    found = [c.why for c in conflicts(other, robot, {"frnt": "side"}, 9)]
    assert found == [
        "the policy has no view 'frnt'; it has front, wrist",
        "view 'front' looks for camera 'front'; the environment has side",
        "view 'wrist' looks for camera 'wrist'; the environment has side",
        "an action of the policy has 3 values, the environment takes 1: dx",
        "the policy acts at 5 Hz, the environment at 10 Hz",
        "the policy reads a state of 7 values, the environment returns 2: x, goal",
        "9 actions of a chunk of 4",
    ]
    assert not list(conflicts(spec(), robot, {}, 4))
    assert len(list(conflicts(spec(), robot, {}, 2, stateful=True))) == 1


def test_the_only_view_sees_the_only_camera() -> None:
    robot = RailEnvironment(Rail()).robot
    view = {"name": "front", "size": [16, 16]}
    assert views_of(spec(cameras={"views": [view]}), robot, {}) == {"front": "side"}


def test_environments_are_chosen_by_name_and_task() -> None:
    with pytest.raises(WamkitError, match="no environment is called 'metawrld'"):
        choose("metawrld:reach-v3")
    with pytest.raises(WamkitError, match="Meta-World has no task 'reech-v3'; did you mean"):
        choose("metaworld:reech-v3")
    with pytest.raises(WamkitError, match="pusht has no tasks to choose from"):
        choose("pusht:easy")

"""A world that goes on while the policy computes: what is executed when, alone or with others."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving import policy

import wamkit
from wamkit.config.robot import ActionConfig
from wamkit.config.spec import parse
from wamkit.errors import WamkitError
from wamkit.runtime import SimulatedDelay
from wamkit.simulate.environment import EnvObservation, choose
from wamkit.simulate.holding import hold_action
from wamkit.simulate.policy_runner import RunningEpisode
from wamkit.simulate.real_time import RealTimeRunner
from wamkit.simulate.timing import EpisodeTiming
from wamkit.testing.fixtures import spec_with, with_overrides

HZ, SIZE, WIDTH = 10.0, 8, 4  # of the policy
PUSHT_ACTIONS = {"chunk_size": 8, "control_hz": 10, "groups": [{"name": "disk", "size": 2}]}


class Counting(RealTimeRunner):
    """The action for step k is k, plus `drift` for every chunk; requests are kept."""

    drift = 0.0

    def _act(self, seen: Any, seeds: Any, rests: Any, delay: int) -> Any:
        self.asked: list[Any] = [*getattr(self, "asked", []), (len(seeds), rests, delay)]
        begun = seen.images["front"][:, -1, 0, 0, 0].float().numpy()
        rows = begun[:, None] + np.arange(SIZE, dtype=np.float32)
        return np.repeat((rows + self.drift * len(self.asked))[..., None], WIDTH, -1)


def runner(seconds: Any, execute_steps: int = 4, **options: Any) -> Counting:
    def delay(seed: int) -> SimulatedDelay:
        return SimulatedDelay(seconds, seed=seed)

    return Counting(policy(), {"front": "front"}, execute_steps, {}, delay, **options)


def look(step: int) -> EnvObservation:
    return EnvObservation({"front": np.full((8, 8, 3), step, np.uint8)}, np.zeros(0), "go")


def play_episodes(
    made: RealTimeRunner, rounds: int, seeds: tuple[int, ...] = (0,)
) -> list[RunningEpisode]:
    """Episodes without a simulator."""
    running = [RunningEpisode(seed, {0: look(0)}) for seed in seeds]
    for _ in range(rounds):
        for one, chunk in zip(running, made.sample_actions(running), strict=True):
            one.actions += list(chunk)
            one.rewards += [0.0] * len(chunk)
            one.step += len(chunk)
            one.seen[one.step] = look(one.step)
    return running


def play(made: RealTimeRunner, rounds: int, seeds: tuple[int, ...] = (0,)) -> list[list[float]]:
    """The actions that episodes execute."""
    return [first_values(one) for one in play_episodes(made, rounds, seeds)]


def first_values(one: RunningEpisode) -> list[float]:
    return [float(action[0]) for action in one.actions]


def timing_of(one: RunningEpisode) -> EpisodeTiming:
    assert one.timing is not None
    return one.timing


@pytest.mark.parametrize("merge", ["replace", "append", "weighted"])
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.32, (0.0, 0.4)])
def test_each_action_is_executed_at_the_step_that_it_is_for(seconds: Any, merge: str) -> None:
    (one,) = play_episodes(runner(seconds, merge=merge), 6)
    found, late = first_values(one), timing_of(one)
    assert found == list(range(len(found))) and len(found) >= 20
    assert late.idle_steps == 0 and late.largest_jump == 0
    assert late.steps == len(found) and late.chunks == 6
    assert one.plan.delays[0] == 0 and late.delay_max == max(one.plan.delays) <= 4


@pytest.mark.parametrize(("merge", "places"), [("replace", [6, 10, 14]), ("append", [8, 12])])
def test_seams_lie_where_the_actions_of_a_new_chunk_begin(merge: str, places: Any) -> None:
    """Each chunk is half a unit further than the one before: a change of 1.5 instead of 1."""
    made = runner(0.2, merge=merge)
    made.drift = 0.5
    (one,) = play_episodes(made, 4)
    found = first_values(one)
    assert [at for at in range(1, len(found)) if found[at] - found[at - 1] == 1.5] == places
    seams = timing_of(one).seams.smoothness
    assert seams.seams == len(places) and seams.jump == pytest.approx(3.0)  # over 4 dimensions
    assert seams.jump_within == pytest.approx(2.0)


def test_a_delay_beyond_the_plan_leaves_the_robot_still() -> None:
    (one,) = play_episodes(runner(0.6), 3)
    found = first_values(one)
    # 4 of the first chunk, the rest of it, and 2 steps without an action
    assert found[:10] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 0]
    assert timing_of(one).idle_steps >= 2
    one.step = 9  # the episode ended within the steps without an action
    assert timing_of(one).steps == 9 and timing_of(one).idle_steps == 1
    (found,) = play(runner(0.6, still="repeat"), 2)
    assert found[8:10] == [7, 7]


def test_a_robot_that_stands_still_keeps_its_targets() -> None:
    one = RunningEpisode(0, {0: look(0)})
    made = runner(0.6)  # of a policy with differences for the arm and a target for the gripper
    for _ in range(2):
        one.actions += list(made.sample_actions([one])[0])
        one.step = len(one.actions)
        one.seen[one.step] = look(one.step)
    assert [action.tolist() for action in one.actions[8:10]] == [[0, 0, 0, 7], [0, 0, 0, 7]]


@pytest.mark.skipif(find_spec("gym_pusht") is None, reason="gym-pusht is missing")
def test_the_disk_of_pusht_stays_where_it_is_while_no_chunk_is_there() -> None:
    environment = choose("pusht", ["size=32"]).build()
    environment.reset(0)
    spec = parse({**policy().spec.dump(), "actions": PUSHT_ACTIONS})
    target = environment.see().state

    class Staying(RealTimeRunner):
        """Wants the disk where it is."""

        def _act(self, seen: Any, seeds: Any, rests: Any, delay: int) -> Any:
            return [np.tile(target, (SIZE, 1))] * len(seeds)

    made = Staying(wamkit.build(spec), {"front": "top"}, SIZE, {}, lambda _: SimulatedDelay(3.0))
    one = RunningEpisode(0, {0: environment.see()})
    for _ in range(2):
        for action in made.sample_actions([one])[0]:
            environment.step(action)
            one.actions.append(action)
        one.step = len(one.actions)
        one.seen[one.step] = environment.see()
    assert timing_of(one).idle_steps == 30
    assert np.abs(environment.see().state - target).max() < 1
    environment.close()


@pytest.mark.parametrize(
    ("kind", "before", "held"),
    [
        ("delta", [3.0, 4.0], [0, 0]),
        ("delta", None, [0, 0]),
        ("absolute", [3.0, 4.0], [3, 4]),
        ("absolute", None, None),
        ("relative", [3.0, 4.0], [3, 4]),
        ("relative", None, [8, 9]),
    ],
)
def test_what_holds_a_robot_follows_the_kind_of_each_group(
    kind: str, before: list[float] | None, held: list[float] | None
) -> None:
    groups = [{"name": "felt", "size": 1, "kind": "state"}, {"name": "arm", "size": 2}]
    groups[1] |= {"kind": kind, "state": 1} if kind == "relative" else {"kind": kind}
    config = ActionConfig.model_validate({"groups": groups})
    last = None if before is None else np.array(before, np.float32)
    found = hold_action(config, last, np.array([7, 8, 9], np.float32))
    assert (found if found is None else found.tolist()) == held
    if held is not None and before is None and kind == "relative":
        assert hold_action(config, None) is None


def test_a_prefix_says_what_is_executed_meanwhile() -> None:
    made = runner(0.2, prefix="guided")
    made.drift = 0.5
    (found,) = play(made, 4)
    assert [delay for _, _, delay in made.asked] == [0, 2, 2, 2]
    for place, (_, rests, _) in enumerate(made.asked[1:], 1):
        at = 4 * place
        assert rests.shape == (1, 4, WIDTH) and rests[0, :2, 0].tolist() == found[at : at + 2]


def test_an_episode_is_the_same_alone_and_next_to_others() -> None:
    alone = [play(runner((0.0, 0.4)), 5, (seed,))[0] for seed in (3, 4)]
    assert play(runner((0.0, 0.4)), 5, (3, 4)) == alone


def test_rows_that_repeat_an_episode_to_fill_a_batch_change_nothing() -> None:
    (alone,) = play(runner((0.0, 0.4)), 5, (3,))
    made, one = runner((0.0, 0.4)), RunningEpisode(3, {0: look(0)})
    while len(one.actions) < len(alone):
        chunk = made.sample_actions([replace(one), one, replace(one)])[1]
        one.actions += list(chunk)
        one.step += len(chunk)
        one.seen[one.step] = look(one.step)
    assert [float(action[0]) for action in one.actions] == alone


def test_a_real_policy_is_asked_for_a_whole_batch() -> None:
    made = RealTimeRunner(
        policy(), {"front": "front"}, 4, {}, lambda seed: SimulatedDelay(0.1, seed=seed)
    )
    found = play(made, 3, (1, 2))
    assert [len(one) for one in found] == [12, 12] and found[0] != found[1]


def test_a_policy_with_a_memory_executes_whole_chunks_and_stands_still_for_each_delay() -> None:
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    remembering = wamkit.build(with_overrides(spec_with(**names), "video.frame_stride=3"))
    size, observed = remembering.spec.actions.chunk_size, np.ones(3, np.float32)

    def delayed(seconds: float, **options: Any) -> RealTimeRunner:
        def delay(seed: int) -> SimulatedDelay:
            return SimulatedDelay(seconds, seed=seed)

        return RealTimeRunner(remembering, {"front": "front"}, size, {}, delay, **options)

    def executed(made: RealTimeRunner) -> NDArray[np.float32]:
        one = RunningEpisode(5, {0: replace(look(0), state=observed)})
        for _ in range(3):
            chunk = made.sample_actions([one])[0]
            one.actions += list(chunk)
            for _ in chunk:
                one.step += 1
                one.seen[one.step] = replace(one.seen[0])
        plans.append(one.plan)
        return np.stack(one.actions)

    plans: list[Any] = []
    at_once, late = executed(delayed(0.0)), executed(delayed(0.25))
    assert len(at_once) == 3 * size and len(late) == 3 * size + 2 * 3
    same = np.concatenate([late[:size], late[size + 3 : 2 * size + 3], late[2 * size + 6 :]])
    assert np.array_equal(same, at_once)  # the images are the same, so the chunks are
    assert (late[size : size + 3] == late[size - 1]).all()  # targets stay
    assert plans[-1].delays == [0, 3, 3] and len(plans[-1].idle) == 6
    for options in ({"merge": "append"}, {"prefix": "guided"}):
        with pytest.raises(WamkitError, match="remembers its episode"):
            delayed(0.1, **options)


def test_what_cannot_be_late_is_refused() -> None:
    for options in ({"merge": "mix"}, {"still": "fall"}):
        with pytest.raises(WamkitError, match="merge is one of"):
            runner(0.1, **options)
    with pytest.raises(WamkitError, match="a prefix, and chunks that are merged by 'append'"):
        runner(0.1, merge="append", prefix="guided")

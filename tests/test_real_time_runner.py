"""A world that goes on while the policy computes: what is executed when, alone or with others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving import policy

import wamkit
from wamkit.errors import WamkitError
from wamkit.runtime import SimulatedDelay
from wamkit.simulate.environment import EnvObservation
from wamkit.simulate.policy_runner import RunningEpisode
from wamkit.simulate.real_time import RealTimeRunner
from wamkit.testing.fixtures import spec_with, with_overrides

HZ, SIZE, WIDTH = 10.0, 8, 4  # of the policy


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


def play(made: RealTimeRunner, rounds: int, seeds: tuple[int, ...] = (0,)) -> list[list[float]]:
    """The actions that episodes execute, without a simulator."""
    running = [RunningEpisode(seed, {0: look(0)}) for seed in seeds]
    for _ in range(rounds):
        for one, chunk in zip(running, made.sample_actions(running), strict=True):
            one.actions += list(chunk)
            one.rewards += [0.0] * len(chunk)
            one.step += len(chunk)
            one.seen[one.step] = look(one.step)
    return [[float(action[0]) for action in one.actions] for one in running]


@pytest.mark.parametrize("merge", ["replace", "append", "weighted"])
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.32, (0.0, 0.4)])
def test_each_action_is_executed_at_the_step_that_it_is_for(seconds: Any, merge: str) -> None:
    made = runner(seconds, merge=merge)
    (found,) = play(made, 6)
    assert found == list(range(len(found))) and len(found) >= 20
    assert made.counts.idle_steps == 0 and made.counts.largest_jump == 0
    assert made.counts.steps == len(found) and made.counts.chunks == 6
    assert made.counts.delays[0] == 0 and max(made.counts.delays) <= 4


@pytest.mark.parametrize(("merge", "places"), [("replace", [6, 10, 14]), ("append", [8, 12])])
def test_seams_lie_where_the_actions_of_a_new_chunk_begin(merge: str, places: Any) -> None:
    """Each chunk is half a unit further than the one before: a change of 1.5 instead of 1."""
    made = runner(0.2, merge=merge)
    made.drift = 0.5
    (found,) = play(made, 4)
    assert [at for at in range(1, len(found)) if found[at] - found[at - 1] == 1.5] == places
    seams = made.smoothness()
    assert seams.seams == len(places) and seams.jump == pytest.approx(3.0)  # over 4 dimensions
    assert seams.jump_within == pytest.approx(2.0)


def test_a_delay_beyond_the_plan_leaves_the_robot_still() -> None:
    made = runner(0.6)
    (found,) = play(made, 3)
    # 4 of the first chunk, the rest of it, and 2 steps without an action
    assert found[:10] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 0]
    assert made.counts.idle_steps >= 2
    (found,) = play(runner(0.6, still="repeat"), 2)
    assert found[8:10] == [7, 7]


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


def test_what_cannot_be_late_is_refused() -> None:
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    remembering = wamkit.build(with_overrides(spec_with(**names)))
    with pytest.raises(WamkitError, match="remembers what was executed chunk by chunk"):
        RealTimeRunner(remembering, {}, 4, {}, lambda seed: SimulatedDelay(0.1))
    for options in ({"merge": "mix"}, {"still": "fall"}):
        with pytest.raises(WamkitError, match="merge is one of"):
            runner(0.1, **options)
    with pytest.raises(WamkitError, match="a prefix, and chunks that are merged by 'append'"):
        runner(0.1, merge="append", prefix="guided")

"""A robot whose policy looks at several moments, or remembers its episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import wamkit
from wamkit.errors import BusyError, WamkitError
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.runtime import Robot, SimulatedClock, SimulatedDelay
from wamkit.runtime.past_images import PastImages
from wamkit.serve.client import Client
from wamkit.serve.local import LocalPolicy
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.fixtures import spec_with, with_overrides

KEY = "observation/front"


def image(step: int) -> Any:
    return np.full((32, 32, 3), 3 * step, np.uint8)


def state(step: int) -> Any:
    return np.array([step, 1, -step], np.float32)


class Body:
    """A robot that sees which action is the next one."""

    def __init__(self, policy: Any, clip: bool = False, **options: Any) -> None:
        self.made: list[Any] = []
        self.log: list[str] = []
        self.robot = Robot(
            policy,
            observe=self.observe,
            execute=self.execute,
            stop=lambda: self.log.append("stop"),
            clock=SimulatedClock(),
            **{"delay": SimulatedDelay(0.25), **options},
        )

    def observe(self) -> dict[str, Any]:
        step = len(self.made)
        return {KEY: image(step), "observation/state": state(step), "prompt": "go", "seed": 3}

    def execute(self, action: Any) -> None:
        self.log.append("go")
        self.made.append(action)


class Recorder:
    """A policy that keeps its requests, and asks for `images` new ones with each reply."""

    def __init__(self, stateful: bool, moments: list[int], images: int = 1) -> None:
        self.metadata: dict[str, Any] = {
            "cameras": {"front": {"key": KEY, "size": [32, 32]}},
            "image_steps": moments,
            "image_stride": 2,
            "stateful": stateful,
            "control_hz": 10.0,
            "chunk_size": 8,
            "actions": ["x"],
        }
        self.images, self.requests, self.faults = images, list[Any](), list[Exception]()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        if self.faults:
            raise self.faults.pop(0)
        self.requests.append(observation)
        return {"actions": np.zeros((8, 1), np.float32), "num_images": self.images}

    @property
    def steps(self) -> list[Any]:
        """The steps of the images of all requests."""
        return [np.unique(one[KEY]).tolist() for one in self.requests]


def test_a_policy_that_looks_at_several_moments_is_sent_their_images() -> None:
    policy = Recorder(False, [-6, -3, 0])
    body = Body(policy, delay=SimulatedDelay(0.0))
    body.robot.run(12)
    assert [one[KEY].shape for one in policy.requests] == [(3, 32, 32, 3)] * 3
    assert policy.steps == [[0], [0, 3, 12], [6, 15, 24]]  # three times the steps 0; -2, 1, 4; ..
    policy.requests.clear()
    body.made.clear()
    body.robot.run(2)
    assert policy.steps == [[0]]  # another run, another episode


def test_images_that_are_clips_or_files_already_are_sent_so() -> None:
    policy = Recorder(False, [-1, 0])
    past = PastImages(policy.metadata)
    clip = np.zeros((2, 32, 32, 3), np.uint8)
    past.add(0, {KEY: clip})
    assert past.request(0)[KEY] is clip
    past.add(1, {KEY: b"one"})
    past.add(2, {KEY: b"two"})
    assert past.request(2)[KEY] == [b"one", b"two"]


def test_a_policy_with_a_memory_is_asked_at_the_end_of_a_chunk_with_what_became_of_it() -> None:
    policy = Recorder(True, [0], images=4)
    policy.faults = [BusyError("busy")]
    report = (body := Body(policy)).robot.run(20)
    assert policy.steps == [[0], [6, 12, 18, 24], [30, 36, 42, 48]]  # every other step, times 3
    assert [one.get("reset", False) for one in policy.requests] == [True, False, False]
    assert report.steps == 20 and report.failed_requests == 1 and report.prefixes == 0
    assert report.starved_steps > 0 and " ".join(body.log).count("go stop go") == 2
    body.robot.run(3)
    assert policy.requests[-1]["reset"] is True


def test_images_before_the_last_chunk_are_not_there() -> None:
    with pytest.raises(WamkitError, match="6 images, 2 steps apart") as error:
        Body(Recorder(True, [0], images=6)).robot.run(20)
    assert "a chunk of 8 actions" in error.value.what


def test_merging_and_refilling_are_refused_where_chunks_are_executed_whole() -> None:
    for option in ({"merge": "replace"}, {"refill": 0.5}):
        with pytest.raises(WamkitError, match="remembers its episode") as error:
            Body(Recorder(True, [0]), **option)
        assert "leave merge and refill out" in error.value.hint


@pytest.fixture(scope="module")
def remembering() -> Policy:
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    return wamkit.build(with_overrides(spec_with(**names), "video.frame_stride=3"))


def by_hand(policy: Policy, chunks: int) -> list[Any]:
    """The actions of an episode that is driven without the runtime."""
    session, made = policy.session(), list[Any]()
    stride = policy.spec.video.frame_stride * policy.spec.video.repeats
    for number in range(chunks):
        at = [len(made) - stride * back for back in reversed(range(session.num_images))]
        seen = np.stack([image(max(step, 0)) for step in at])[None]
        frames = torch.from_numpy(seen).permute(0, 1, 4, 2, 3)
        now = torch.from_numpy(state(len(made)))[None]
        chunk = session.act(Observation({"front": frames}, ["go"], now), seed=3)
        assert number or session.num_images > 1
        made += list(chunk.values[0].numpy())
    return made


def test_a_run_is_the_session_of_a_policy_with_a_memory(remembering: Policy) -> None:
    size = remembering.spec.actions.chunk_size
    expected = by_hand(remembering, 3)
    body = Body(LocalPolicy(remembering))
    for _ in range(2):  # each run is an episode of its own
        body.made.clear()
        report = body.robot.run(3 * size)
        assert report.chunks == 3 and np.array_equal(body.made, expected)
    listener = bind("127.0.0.1", 0)
    server = run_in_thread(Server(remembering, "toy"), listener)
    with server, Client(*address_of(listener)) as client:
        body = Body(client)
        body.robot.run(3 * size)
    assert np.array_equal(body.made, expected)

"""Observations that come late, twice or not at all, and resets in mid-flight, over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Event
from typing import Any

import numpy as np
import pytest
from serving import policy

import wamkit
from wamkit.errors import WamkitError
from wamkit.policy.moments import Moment
from wamkit.policy.policy import Policy
from wamkit.runtime import Robot, SimulatedClock, SimulatedDelay
from wamkit.serve.client import Client
from wamkit.serve.fields import parse_moment
from wamkit.serve.local import LocalPolicy
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.fixtures import spec_with
from wamkit.testing.parity import same_values


@cache
def remembering() -> Policy:
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    return wamkit.build(spec_with(**names))


def seen(client: Client, images: int, level: int = 0, **keys: Any) -> dict[str, Any]:
    """A request with so many images of each camera."""
    about, found = client.metadata, {"prompt": "pick up", "seed": 0, **keys}
    for camera in about["cameras"].values():
        image = np.full((32, 32, 3), level, np.uint8)
        found[camera["key"]] = image if images == 1 else np.stack([image] * images)
    if size := about["state"]["size"]:
        found[about["state"]["key"]] = np.zeros(size, np.float32)
    return found


@pytest.fixture(scope="module")
def forgetful() -> Iterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy()), listener):
        yield address_of(listener)


@pytest.fixture(scope="module")
def mindful() -> Iterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(remembering()), listener):
        yield address_of(listener)


def test_late_dropped_early_and_repeated_observations_are_distinguished(
    mindful: Any,
) -> None:
    n = remembering().spec.actions.chunk_size
    with Client(*mindful) as client, Client(*mindful) as plain:
        assert client.metadata["moments"]
        first = client.infer(seen(client, 1, step=0))
        count = first["num_images"]
        for step, images, message in (
            (0, 1, "the observation of step 0 again"),
            (n - 1, count, "an early observation"),
            (2 * n, 2 * count, f"a dropped frame: {2 * n} actions were executed since step 0"),
        ):
            with pytest.raises(WamkitError, match=message):
                client.infer(seen(client, images, 9, step=step))
        second = client.infer(seen(client, count, 9, step=n))
        with pytest.raises(WamkitError, match=f"a late observation: of step {n - 1}"):
            client.infer(seen(client, count, 9, step=n - 1))
        plain.infer(seen(plain, 1))
        same_values(second["actions"], plain.infer(seen(plain, count, 9))["actions"])


def test_another_episode_begins_anew_with_as_many_images_as_a_first_one(mindful: Any) -> None:
    n = remembering().spec.actions.chunk_size
    with Client(*mindful) as client:
        first = client.infer(seen(client, 1, step=0, episode="a"))
        client.infer(seen(client, first["num_images"], step=n, episode="a"))
        again = client.infer(seen(client, 1, step=0, episode="b"))
        same_values(again["actions"], first["actions"])
        client.reset()  # also of the same name
        same_values(client.infer(seen(client, 1, step=0, episode="b"))["actions"], first["actions"])


def test_a_policy_without_a_memory_refuses_late_observations_alone(forgetful: Any) -> None:
    with Client(*forgetful) as client, Client(*forgetful) as other:
        for step in (0, 3, 3, 20):
            client.infer(seen(client, 1, step=step))
        with pytest.raises(WamkitError, match="a late observation: of step 19") as refused:
            client.infer(seen(client, 1, step=19))
        assert "pass the newest one" in str(refused.value)
        other.infer(seen(other, 1, step=1))  # another robot
        client.infer(seen(client, 1, step=21))
        client.infer(seen(client, 1, step=0, episode=1))
        client.reset()
        client.infer(seen(client, 1, step=0, episode=1))


def test_a_request_that_is_sent_again_is_answered_as_before(mindful: Any) -> None:
    with Client(*mindful) as client:
        first = client.infer(seen(client, 1, step=0))
        client._count -= 1  # as after a connection that broke
        same_values(client.infer(seen(client, 1, step=0))["actions"], first["actions"])


@pytest.mark.parametrize("paradigm", ["forgetful", "mindful"])
def test_a_chunk_that_was_in_flight_when_the_episode_was_reset_is_not_returned(
    paradigm: str, request: Any
) -> None:
    address = request.getfixturevalue(paradigm)
    asked, go_on = Event(), Event()

    class Slow(Client):
        """A client whose replies come once they may."""

        def _receive(self, request: bytes | None = None) -> dict[str, Any]:
            found = super()._receive(request)
            if request is not None:
                asked.set()
                assert go_on.wait(60)
            return found

    with Slow(*address) as client, ThreadPoolExecutor(1) as threads:
        reply = threads.submit(client.infer, seen(client, 1, step=0))
        assert asked.wait(60)
        client.reset()
        go_on.set()
        with pytest.raises(WamkitError, match="client was reset while this chunk was computed"):
            reply.result()
        client.infer(seen(client, 1, step=0))  # the first one of the new episode


def test_a_robot_says_when_it_looked(mindful: Any, forgetful: Any) -> None:
    n = remembering().spec.actions.chunk_size
    for address, steps in ((mindful, [0, n, 2 * n]), (forgetful, [])):
        with Client(*address) as client:
            asked = list[Any]()
            send = client.infer

            def infer(found: Any, send: Any = send, asked: Any = asked) -> Any:
                asked.append((found["episode"], found["step"]))
                return send(found)

            client.infer = infer  # type: ignore[method-assign]
            robot = Robot(
                client,
                observe=lambda client=client: seen(client, 1),  # type: ignore[misc]
                execute=lambda action: None,
                stop=lambda: None,
                clock=SimulatedClock(),
                delay=SimulatedDelay(0.25),
            )
            for _ in range(2):
                asked.clear()
                robot.run(3 * n)
                found = [step for _, step in asked]
                assert found[0] == 0 and sorted(found) == found and len(found) > 1
                assert not steps or found == steps
                assert len({episode for episode, _ in asked}) == 1


def test_a_policy_of_this_process_refuses_the_same() -> None:
    local: Any = LocalPolicy(remembering())
    local.infer(seen(local, 1, step=0))
    with pytest.raises(WamkitError, match="the observation of step 0 again"):
        local.infer(seen(local, 1, step=0))
    local.infer(seen(local, 1, step=0, episode=1))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"step": -1}, "'step' is -1; expected a count"),
        ({"step": True}, "'step' is True"),
        ({"step": 1.0}, "'step' is 1.0"),
        ({"step": "1"}, "'step' is '1'"),
        ({"step": 1, "episode": 0.5}, "'episode' is 0.5"),
        ({"step": 1, "episode": "x" * 65}, "a name of at most 64 characters"),
        ({"episode": 1}, "'episode' and no 'step'"),
    ],
)
def test_a_moment_is_a_count_and_a_name(found: dict[str, Any], message: str) -> None:
    with pytest.raises(WamkitError, match=message):
        parse_moment(found)
    assert parse_moment({}) is None
    assert parse_moment({"step": np.int64(3), "episode": "x"}) == Moment(3, "x")

"""Requests of several clients in one batch: each gets what it would get alone, in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from serving import SEEN, policy, until

from wamkit.errors import BusyError, WamkitError
from wamkit.policy.observation import Observation
from wamkit.serve.batching import Batcher, Job
from wamkit.serve.client import Client
from wamkit.serve.limits import Limits
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.serve.worker import PolicyWorker
from wamkit.testing.parity import same_values

PROMPTS = ("pick up the cup", "open", "put the red block on top of the blue one, slowly")


@contextmanager
def served(**limits: Any) -> Iterator[tuple[Server, tuple[str, int]]]:
    listener = bind("127.0.0.1", 0)
    server = Server(policy(), "toy", limits=Limits(**limits))
    with run_in_thread(server, listener):
        yield server, address_of(listener)


def image(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape or (32, 32, 3), dtype=np.uint8)


def request(index: int, **more: Any) -> dict[str, Any]:
    prompt = PROMPTS[index % len(PROMPTS)]
    return {"observation/front": image(index), "prompt": prompt, "seed": 100 + index, **more}


def alone(found: dict[str, Any]) -> Any:
    seen = Observation({"front": found["observation/front"]}, found["prompt"])
    return policy().act(seen, seed=found["seed"]).values[0].numpy()


def at_once(
    served: tuple[Server, tuple[str, int]], requests: Sequence[dict[str, Any]]
) -> list[Any]:
    """The replies to requests of as many clients, all sent at the same moment."""
    server, address = served
    server.batcher.expected = lambda: len(requests)
    together = threading.Barrier(len(requests))

    def ask(found: dict[str, Any]) -> Any:
        with Client(*address) as client:
            together.wait(60)
            try:
                return client.infer(found)
            except WamkitError as error:
                return str(error)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


def test_clients_that_share_a_batch_get_each_what_it_would_get_alone() -> None:
    requests = [request(index) for index in range(6)]
    with served(max_wait=60, batch=6) as found:
        replies = at_once(found, requests)
    assert [reply["server_timing"]["batch"] for reply in replies] == [6] * 6
    for found, reply in zip(requests, replies, strict=True):
        same_values(reply["actions"], alone(found))


def test_requests_of_other_sizes_and_bad_ones_cost_nobody_a_reply() -> None:
    requests = [request(index) for index in range(7)]
    requests[2]["observation/front"] = image(2, 40, 50, 3)
    requests[4] = {"prompt": "no image"}
    requests[5]["seed"] = "x"
    with served(batch=4) as found:
        replies = at_once(found, requests)
    assert "has no 'observation/front'" in replies[4] and "seed" in replies[5]
    for place in (0, 1, 2, 3, 6):
        same_values(replies[place]["actions"], alone(requests[place]))


def test_a_batch_that_fails_is_computed_request_by_request(monkeypatch: Any) -> None:
    plain = policy().act

    def act(seen: Observation, *args: Any, **kwargs: Any) -> Any:
        if "poison" in seen.prompt:
            raise WamkitError("the actions are not finite", "choose another instruction")
        return plain(seen, *args, **kwargs)

    monkeypatch.setattr(policy(), "act", act)
    requests = [request(index) for index in range(4)]
    requests[1]["prompt"] = "poison"
    with served(max_wait=60, batch=4) as found:
        replies = at_once(found, requests)
    assert "the actions are not finite" in replies[1]
    monkeypatch.undo()
    for place in (0, 2, 3):
        assert replies[place]["server_timing"]["batch"] == 4
        same_values(replies[place]["actions"], alone(requests[place]))


def test_a_robot_alone_waits_for_nobody() -> None:
    with served(max_wait=3600) as (_, address), Client(*address) as client:
        for _ in range(3):
            assert client.infer(SEEN)["server_timing"]["batch"] == 1


def test_a_request_waits_no_longer_than_its_deadline_for_robots_that_pause() -> None:
    with served(max_wait=0.01) as (_, address), Client(*address) as one, Client(*address) as two:
        two.infer(SEEN)
        assert one.infer(SEEN)["server_timing"]["batch"] == 1


def test_requests_without_a_seed_draw_each_their_own() -> None:
    plain = {key: value for key, value in request(0).items() if key != "seed"}
    with served(max_wait=60, batch=3) as found:
        replies = at_once(found, [dict(plain) for _ in range(3)])
    chunks = {reply["actions"].tobytes() for reply in replies}
    assert len(chunks) == 3


def test_where_a_size_of_a_batch_has_a_cost_powers_of_two_are_prepared(monkeypatch: Any) -> None:
    sizes: list[int] = []
    plain = policy().act

    def act(seen: Observation, **options: Any) -> Any:
        sizes.append(seen.batch)
        return plain(seen, **options)

    monkeypatch.setattr(policy(), "act", act)
    monkeypatch.setattr(policy(), "mode", "compile")
    requests = [request(index) for index in range(3)]
    with served(max_wait=60, batch=6) as (server, address):
        assert server.worker.sizes() == [1, 2, 4, 6]
        server.warm_up(["lift"])
        assert sizes == [1, 2, 4, 6]
        replies = at_once((server, address), requests)
    assert sizes[-1] == 4 and len(replies) == 3
    for found, reply in zip(requests, replies, strict=True):
        same_values(reply["actions"], alone(found))
    monkeypatch.setattr(policy(), "mode", "eager")
    assert PolicyWorker(server.handler, 8).sizes() == [1]


Queue = Callable[..., Any]


def run(play: Callable[[Batcher, list[list[Any]]], Any], expected: int = 99, **limits: Any) -> Any:
    """What became of jobs in a queue of its own, and the batches that were computed."""

    async def main() -> Any:
        batches: list[list[Any]] = []

        async def compute(requests: Sequence[Any]) -> list[Any]:
            batches.append(list(requests))
            await asyncio.sleep(0)
            return [f"reply {request}" for request in requests]

        batcher = Batcher(compute, Limits(**limits), lambda: expected)
        found = await play(batcher, batches)
        return found, batches

    return asyncio.run(main())


def test_one_session_has_one_request_in_a_batch_and_orders_are_kept() -> None:
    async def play(batcher: Batcher, batches: list[list[Any]]) -> list[Any]:
        mine, yours = object(), object()
        jobs = [Job(mine, "a", 1), Job(mine, "a", 2), Job(yours, "a", 3), Job(yours, "b", 4)]
        jobs += [Job(object(), None, 5), Job(object(), None, 6)]
        futures = [batcher.submit(job) for job in jobs]
        running = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*futures)
        batcher.close()
        await running
        return found

    found, batches = run(play, max_wait=0)
    assert found == [f"reply {n}" for n in range(1, 7)]
    assert batches == [[1, 3], [2], [4], [5], [6]]


def test_a_full_queue_refuses_and_nothing_is_computed_for_who_left() -> None:
    async def play(batcher: Batcher, batches: list[list[Any]]) -> list[Any]:
        jobs = [Job(object(), "a", n, wanted=lambda n=n: n != 1) for n in range(3)]  # type: ignore[misc]
        futures = [batcher.submit(job) for job in jobs]
        with pytest.raises(BusyError, match="the server is busy: 3 requests wait"):
            batcher.submit(Job(object(), "a", 9))
        running = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*futures)
        late = batcher.submit(Job(object(), "a", 10))
        batcher.close()
        await running
        return [*found, await late]

    found, batches = run(play, queue=3, max_wait=0)
    assert found == ["reply 0", None, "reply 2", None] and batches == [[0, 2]]


def test_a_request_that_may_be_sent_again_later_is_refused_as_busy(monkeypatch: Any) -> None:
    going, free = threading.Event(), threading.Event()
    plain = policy().sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        going.set()
        assert free.wait(60)
        return plain(*args, **kwargs)

    monkeypatch.setattr(policy(), "sample", sample)
    with served(queue=1, batch=1) as (server, address), ThreadPoolExecutor(2) as pool:
        clients = [Client(*address) for _ in range(3)]
        first = pool.submit(clients[0].infer, SEEN)
        assert going.wait(60)
        second = pool.submit(clients[1].infer, SEEN)
        until(lambda: len(server.batcher.waiting) == 1)
        with pytest.raises(BusyError, match="says: the server is busy: 1 requests wait"):
            clients[2].infer(SEEN)
        free.set()
        for reply in (first, second):
            assert reply.result(60)["actions"].shape == (8, 4)
        assert clients[2].infer(SEEN)["actions"].shape == (8, 4)
        for client in clients:
            client.close()


def test_an_error_of_one_batch_ends_no_other() -> None:
    async def main() -> None:
        async def compute(requests: Sequence[Any]) -> list[Any]:
            if requests == [1]:
                raise RuntimeError("loose")
            return ["fine"]

        batcher = Batcher(compute, Limits(max_wait=0, batch=1), lambda: 1)
        running = asyncio.create_task(batcher.run())
        first, second = batcher.submit(Job(1, "a", 1)), batcher.submit(Job(2, "a", 2))
        with pytest.raises(RuntimeError, match="loose"):
            await first
        assert await second == "fine"
        batcher.close()
        await running

    asyncio.run(main())

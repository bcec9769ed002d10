"""Requests of several clients, computed together: who shares a batch, and who waits how long.

A batch is computed while the next one gathers. Into it goes the oldest request that waits, and
with it those behind it of the same signature (sizes of images, delay of a prefix), each of another
session. A batch that is not full waits for others until the oldest request in it is
`Limits.max_wait` old, and no longer than until every robot that is connected has a request in it: a
robot alone never waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ..errors import BusyError
from .limits import BUSY, Limits


@dataclass
class Job:
    """A request that waits to be computed."""

    session: object
    """Requests of one session are computed one after the other."""
    signature: Hashable
    """Equal for requests that can share a batch; None for one that is computed alone."""
    request: Any
    wanted: Callable[[], bool] = lambda: True
    """False once nobody waits for the reply any more: it is dropped, and its reply is None."""
    started: Callable[[], None] = lambda: None
    """Called when it is computed from now on."""
    came: float = field(default_factory=perf_counter)
    done: asyncio.Future[Any] = field(default_factory=asyncio.Future)


class Batcher:
    """The queue in front of a policy. All methods run in the event loop.

    `compute` returns one reply for each request of a batch, or the exception that it ended with.
    `expected` says how many requests there can be: no more are awaited.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]],
        limits: Limits,
        expected: Callable[[], int],
    ) -> None:
        self.compute, self.limits, self.expected = compute, limits, expected
        self.waiting: deque[Job] = deque()
        self.closed = False
        self._changed = asyncio.Event()

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Put a request into the queue; its reply is the result of the future.

        Raises BusyError if the queue is full: nobody waits for a turn that comes too late.
        """
        if self.closed:
            _finish(job, None)
            return job.done
        if len(self.waiting) >= self.limits.queue:
            raise BusyError(
                f"{BUSY}: {len(self.waiting)} requests wait, and no more are taken",
                "send the request again later, or start `wamkit serve` with a larger --max-queue",
            )
        self.waiting.append(job)
        self._changed.set()
        return job.done

    def close(self) -> None:
        """Drop requests that wait; `run` ends after the batch that is being computed."""
        self.closed = True
        for job in self.waiting:
            _finish(job, None)
        self.waiting.clear()
        self._changed.set()

    async def run(self) -> None:
        """Compute batches until the end."""
        while not self.closed:
            batch = self._gather()
            if not batch:
                await self._change(None)
                continue
            left = batch[0].came + self.limits.max_wait - perf_counter()
            most = 1 if batch[0].signature is None else min(self.limits.batch, self.expected())
            if left > 0 and len(batch) < most:
                await self._change(left)
                continue
            for job in batch:
                self.waiting.remove(job)
                job.started()
            replies: Sequence[Any]
            try:
                replies = await self.compute([job.request for job in batch])
            except Exception as error:  # the next batch has nothing to do with it
                replies = [error] * len(batch)
            for job, reply in zip(batch, replies, strict=True):
                _finish(job, reply)

    def _gather(self) -> list[Job]:
        """The next batch as far as it is there; drops requests that nobody waits for."""
        for job in [job for job in self.waiting if not job.wanted()]:
            self.waiting.remove(job)
            _finish(job, None)
        found: list[Job] = []
        for job in self.waiting:
            others = {id(one.session) for one in found}
            if found and (job.signature != found[0].signature or id(job.session) in others):
                continue
            found.append(job)
            if len(found) == self.limits.batch or job.signature is None:
                break
        return found

    async def _change(self, seconds: float | None) -> None:
        """Wait for another request, or for so long."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass


def _finish(job: Job, reply: Any) -> None:
    if job.done.done():  # cancelled
        return
    if isinstance(reply, Exception):
        job.done.set_exception(reply)
    else:
        job.done.set_result(reply)

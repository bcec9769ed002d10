"""The thread that computes: batches of requests to one policy, and warming up before the first one.

Settings of torch in one thread do not hold in another, so it works under those of the thread that
made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from ..policy.observation import random_observation
from ..policy.session import Session
from .frames import encode_imagined
from .protocol import ParsedRequest, RequestHandler

T = TypeVar("T")
Answer = dict[str, Any] | Exception


@dataclass
class Work:
    """A request of one client, read and validated as far as that needs no session."""

    session: Session
    request: ParsedRequest | dict[str, Any]
    """Parsed; or as it came, where the number of images depends on the episode."""

    @property
    def nbytes(self) -> int:
        """Bytes of its images, 0 if they were not decoded yet."""
        return self.request.nbytes if isinstance(self.request, ParsedRequest) else 0


class PolicyWorker:
    """One thread for one policy, batches in the order in which they are submitted."""

    def __init__(self, handler: RequestHandler, most: int) -> None:
        self.handler, self.policy = handler, handler.policy
        self.most = 1 if self.policy.paradigm.stateful else most
        self._thread = ThreadPoolExecutor(1, "policy")
        self._settings = copy_context()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run something in the thread."""
        return self._thread.submit(self._settings.run, work)

    def close(self) -> None:
        """End the thread once it has nothing to do."""
        self._thread.shutdown()

    def warm_up(self, prompts: Sequence[str] = ()) -> None:
        """Sample a chunk for each prompt, and a second one if the paradigm is stateful.

        Lazy encoding, compilation, capture and allocation happen here, before a client waits.
        Without any, one chunk for some instruction: others may have another length. In a mode that
        compiles or captures, one for each size of a batch.
        """
        for prompt in prompts or (None,):
            for size in self.sizes():
                self.submit(partial(self._rehearse, prompt, size)).result()

    def sizes(self) -> list[int]:
        """Sizes of batches that are prepared for: powers of 2 where each has a cost."""
        if self.policy.mode == "eager":
            return [1]
        found = [1]
        while found[-1] < self.most:
            found.append(min(2 * found[-1], self.most))
        return found

    def _rehearse(self, prompt: str | None, size: int) -> None:
        session = self.policy.session()
        for _ in range(2 if self.policy.paradigm.stateful else 1):
            seen = random_observation(self.policy.spec, batch=size, frames=session.num_images)
            seed: Any = 0 if size == 1 else list(range(size))
            prompts = seen.prompt if prompt is None else [prompt] * size
            session.act(replace(seen, prompt=prompts), seed=seed)

    def imagine(self, request: ParsedRequest) -> dict[str, list[bytes]]:
        """The future of one robot, as frames in JPEG. Runs in the thread."""
        return encode_imagined(self.handler.imagine([request], request.seed), 0)

    def compute(self, batch: Sequence[Work]) -> list[tuple[Answer, float]]:
        """The reply to each request, or what went wrong with it, and its seconds.

        Runs in the thread. Requests of a batch that fails are computed one by one, so that one that
        cannot be computed costs no other its reply.
        """
        begun = perf_counter()
        try:
            answers: list[Answer] = list(self._answer(batch))
        except Exception as error:
            if len(batch) == 1:
                return [(error, perf_counter() - begun)]
            answers = []
        if answers:
            return [(answer, perf_counter() - begun) for answer in answers]
        return [self.compute([one])[0] for one in batch]

    def _answer(self, batch: Sequence[Work]) -> list[dict[str, Any]]:
        """The replies to a batch; raises what the policy raises."""
        first = batch[0]
        if not isinstance(first.request, ParsedRequest):
            first.request = self.handler.parse_next(first.session, first.request)
            return [self.handler.act(first.session, first.request)]
        requests = [one.request for one in batch if isinstance(one.request, ParsedRequest)]
        size = next((n for n in self.sizes() if n >= len(batch)), len(batch))
        padded = requests + requests[-1:] * (size - len(batch))
        return self.handler.answer_batch(padded)[: len(batch)]

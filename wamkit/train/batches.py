"""Batches without end, the shards they are cut into, and the seeds of their noise."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import fields, replace
from hashlib import sha256
from time import perf_counter

from torch import Tensor

from ..data import Loader
from ..observation import Batch


class Feed:
    """Batches of a loader, epoch after epoch, and how long they were waited for."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.waited = loader, 0.0
        self.before = loader.state_dict()
        self._batches = self._endless()

    def next(self) -> Batch:
        """The next batch; `before` is where the order was."""
        self.before = self.loader.state_dict()
        begin = perf_counter()
        batch = next(self._batches)
        self.waited += perf_counter() - begin
        return batch

    def whole(self) -> list[int]:
        """The samples of the last batch, those of all processes together."""
        order = copy(self.loader.order)
        order.epoch, order.position = self.before["epoch"], self.before["position"]
        return order.next()

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.loader


def shard(batch: Batch, start: int, stride: int) -> Batch:
    """The samples `start`, `start + stride`, ... of a batch."""
    seen, take = batch.observation, slice(start, None, stride)
    count = seen.batch
    parts = {
        field.name: value[take]
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor)
        and not (field.name == "dim_valid" and value.ndim == 1)
    }
    observation = replace(
        seen,
        images={name: image[take] for name, image in seen.images.items()},
        prompt=seen.prompt[take] if count > 1 else seen.prompt,
        state=None if seen.state is None else seen.state[take],
    )
    return replace(batch, observation=observation, **parts)


def seed_of(*words: object) -> int:
    """A seed that is the same wherever and whenever it is asked for."""
    return int.from_bytes(sha256("/".join(map(str, words)).encode()).digest()[:7])

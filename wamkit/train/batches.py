"""Batches without end, the shards they are cut into, and the seeds of their noise."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import fields, replace
from hashlib import sha256
from time import perf_counter

from torch import Tensor

from ..data import Loader
from ..errors import WamkitError
from ..policy.observation import Batch


class BatchIterator:
    """Batches of a loader, epoch after epoch, with the time spent waiting for them."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.waited = loader, 0.0
        self.before = loader.state_dict()
        self._batches = self._endless()

    def next(self) -> Batch:
        """Return the next batch; `before` is the state of the order before it."""
        self.before = self.loader.state_dict()
        begin = perf_counter()
        batch = next(self._batches)
        self.waited += perf_counter() - begin
        return batch

    def whole(self) -> list[int]:
        """Indexes of the samples of the last batch, over all processes."""
        order = copy(self.loader.order)
        order.epoch, order.position = self.before["epoch"], self.before["position"]
        return order.next()

    def close(self) -> None:
        """Stop the worker processes."""
        self._batches.close()
        self.loader.close()

    def _endless(self) -> Generator[Batch, None, None]:
        while True:
            yield from self.loader


@contextmanager
def explain_worker_errors() -> Iterator[None]:
    """Raise a WamkitError if a data worker dies in the block."""
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for it
        if "DataLoader worker" not in str(error):
            raise
        why = str(error).splitlines()[0].strip()
        raise WamkitError(
            f"a process that reads the data ended: {why}",
            "fewer --workers, or more memory for them; the same command with --resume continues",
        ) from None


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


def seed_of(*parts: object) -> int:
    """Derive a seed from `parts`, the same on every machine."""
    return int.from_bytes(sha256("/".join(map(str, parts)).encode()).digest()[:7])

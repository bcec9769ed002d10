"""Batches of samples in a resumable order that a seed determines."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import WamkitError
from ..policy.observation import Batch, Observation
from .samples import Sample, Samples

SEEDS = 2**63  # that a generator of torch takes
GRACE = 30  # seconds that a worker keeps running after SIGTERM, for the pending batch


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one `Samples` as a batch."""
    first = samples[0]
    images = {name: torch.stack([s["images"][name] for s in samples]) for name in first["images"]}
    state = torch.stack([s["state"] for s in samples]) if "state" in first else None
    after = torch.stack([s["next_state"] for s in samples]) if "next_state" in first else None
    states = torch.stack([s["states"] for s in samples]) if "states" in first else None
    latents = torch.stack([s["latents"] for s in samples]) if "latents" in first else None
    return Batch(
        observation=Observation(images, [s["prompt"] for s in samples], state),
        actions=torch.stack([s["actions"] for s in samples]),
        step_valid=torch.stack([s["step_valid"] for s in samples]),
        frame_valid=torch.stack([s["frame_valid"] for s in samples]),
        next_state=after,
        value=torch.tensor([s["value"] for s in samples]) if "value" in first else None,
        latents=latents,
        states=states,
    )


@dataclass(frozen=True)
class _Problem:
    """An error of a worker process, in a form that can be pickled."""

    what: str
    hint: str


class _Reading:
    """Dataset wrapper that returns a problem instead of raising."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Sample | _Problem:
        try:
            return self.samples[index]
        except WamkitError as error:
            return _Problem(error.what, error.hint)

    def __len__(self) -> int:
        return len(self.samples)


def _collate(samples: Sequence[Sample | _Problem]) -> Batch | _Problem:
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, _Problem):
            return sample
        good.append(sample)
    return collate(good)


def _begin_worker(_: int) -> None:
    """Leave Ctrl-C and SIGTERM, which a whole group of processes gets, to the process that trains.

    After SIGTERM this one ends by itself, as if it had nothing more to do.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, _end_later)


def _end_later(*_: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, GRACE)


class Order:
    """Indexes of one epoch after the other in batches, of which each of `world` processes has one.

    The same seed gives the same order for any number of processes: together they take the batches
    that one alone would take with a batch as large as all of theirs.
    """

    def __init__(
        self,
        size: int,
        batch: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
    ) -> None:
        """Raises WamkitError if the samples do not fill one batch."""
        self.size, self.batch, self.seed, self.shuffle = size, batch, seed, shuffle
        self.rank, self.world, self.drop_last = rank, world, drop_last
        self.epoch, self.position = 0, 0  # of the next batch
        if not len(self):
            raise WamkitError(
                f"{size} samples do not fill a batch of {batch} on {world} processes",
                "take a smaller batch, or more episodes",
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.size, self.batch * self.world)
        return whole + (not self.drop_last and rest > self.rank)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this epoch from `position` on."""
        for whole in self._global_batches()[self.position : len(self)]:
            yield whole[self.rank :: self.world].tolist()

    def next(self) -> list[int]:
        """The samples of the next batch, those of all processes together."""
        return self._global_batches()[self.position].tolist()  # type: ignore[no-any-return]

    def _global_batches(self) -> tuple[torch.Tensor, ...]:
        """The batches of this epoch, each that of all processes together."""
        order = torch.arange(self.size)
        if self.shuffle:
            rng = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % SEEDS)
            order = torch.randperm(self.size, generator=rng)
        return order.split(self.batch * self.world)


class Loader:
    """Batches in worker processes, an epoch each time it is iterated over."""

    def __init__(
        self,
        samples: Samples,
        batch: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
    ) -> None:
        """The batches do not depend on `workers`. Raises WamkitError if no batch is full."""
        options: dict[str, Any] = {"rank": rank, "world": world, "drop_last": drop_last}
        self.order = Order(len(samples), batch, seed=seed, shuffle=shuffle, **options)
        self._loader: Any = DataLoader(
            _Reading(samples),  # type: ignore[arg-type]
            batch_sampler=self.order,  # type: ignore[arg-type]
            collate_fn=_collate,
            num_workers=workers,
            worker_init_fn=_begin_worker,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate the rest of this epoch; the next iteration is the next epoch.

        Raises WamkitError if a sample cannot be read.
        """
        for batch in self._loader:
            if isinstance(batch, _Problem):
                raise WamkitError(batch.what, batch.hint)
            self.order.position += 1  # batches handed out, without those that workers prefetched
            if self.order.position == len(self.order):
                self.order.epoch, self.order.position = self.order.epoch + 1, 0
            yield batch

    def close(self) -> None:
        """Stop the worker processes; no batches can be read after this."""
        self._loader = ()

    def state_dict(self) -> dict[str, int]:
        """Position of the next batch; also while iterating."""
        order = self.order
        return {
            "epoch": order.epoch,
            "position": order.position,
            "seed": order.seed,
            "size": order.size,
            "batch": order.batch * order.world,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken. Raises WamkitError if that was another order."""
        now, again = self.state_dict(), "resume from another checkpoint: this one is damaged"
        for name in now:
            value = state.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise WamkitError(
                    f"the {name} of an order is {value!r:.40}, expected a whole number from 0 on",
                    again,
                )
        for name in ("seed", "size", "batch"):
            if state[name] != now[name]:
                raise WamkitError(
                    f"the order was of {name} {state[name]}, this one is of {now[name]}",
                    "resume with the same data, seed and total batch size",
                )
        if state["position"] >= len(self.order):
            raise WamkitError(
                f"the order has {len(self.order)} batches, and this is place {state['position']}",
                again,
            )
        self.order.epoch, self.order.position = state["epoch"], state["position"]

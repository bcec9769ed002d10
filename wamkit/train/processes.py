"""The processes of one training run: who this one is, and how all of them agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..errors import WamkitError
from ..policy.placing import expect_device

WAIT = 600.0
"""Seconds that a process waits for the others, if nothing else is set."""


@dataclass(frozen=True)
class Processes:
    """This process among all of a run; one alone if torchrun did not start it."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """True for the process that writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block in which processes do not wait for each other; if one fails in it, all do.

        Raises in every process what went wrong in it, or else a WamkitError with what went wrong
        in the first that failed.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        if self.world > 1:
            said = [None] if problem is None else _said(problem)
            every: list[Any] = [None] * self.world
            dist.all_gather_object(every, said)
            failed = [result for result in every if result[0] is not None]
            if problem is None and failed:
                problem = WamkitError(*failed[0])
        if problem is not None:
            raise problem

    def same(self, value: str) -> str:
        """A text of the first process, in all of them."""
        if self.world == 1:
            return value
        found: list[Any] = [value]
        dist.broadcast_object_list(found)
        return str(found[0])

    def any(self, here: bool) -> bool:
        """True if it is true in any process."""
        if self.world == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of some numbers [n]."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values


@contextmanager
def joined(device: str, timeout: float = WAIT) -> Iterator[Processes]:
    """The processes that torchrun started, for as long as the run goes.

    None waits for another for longer than `timeout` seconds. Raises WamkitError if there is no such
    device, and in those that are left if a process ends, or is stopped for so long.
    """
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    place = expect_device(device)
    if place.type == "cuda":
        place = expect_device(f"cuda:{local if world > 1 else place.index or 0}")
        torch.cuda.set_device(place)
    if world == 1:
        yield Processes(place)
        return
    try:
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        yield Processes(place, dist.get_rank(), world)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise _lost(error, timeout, world) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """True for what torch.distributed raises if another process ends or does not answer.

    Gloo has no class of errors of its own; it names its source.
    """
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def _lost(error: RuntimeError, timeout: float, world: int) -> WamkitError:
    """Which process is without the others, and what to do."""
    rank = os.environ.get("RANK", "?")
    late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
    what = f"did not answer for {timeout:g} s" if late else "ended"
    longer = "; if it was still at work, let the others wait longer: --train timeout=SECONDS"
    return WamkitError(
        f"process {rank} of {world} goes no further: another one {what}",
        "look at what the others say, stop those that are left, and go on with --resume"
        + (longer if late else ""),
    )


def _said(problem: Exception) -> list[str]:
    """What went wrong and what to do, as words that can be sent to another process."""
    if isinstance(problem, WamkitError):
        return [problem.what, problem.hint]
    if isinstance(problem, OSError):
        return [str(problem)]
    return [f"{type(problem).__name__}: {problem}"]


def full(x: Tensor) -> Tensor:
    """A whole tensor, gathered from all processes if they hold parts of it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def own(x: Tensor) -> Tensor:
    """What this process holds of a tensor, without a gradient; a view."""
    x = x.detach()
    return x.to_local() if isinstance(x, DTensor) else x

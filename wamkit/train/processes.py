"""The processes of one training run: rank, world size and collectives."""

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
from ..policy.devices import expect_device

WAIT = 600.0
"""Seconds that a process waits for the others, if nothing else is set."""


@dataclass(frozen=True)
class Processes:
    """Rank and world size of this process; 0 of 1 without torchrun."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes arrive."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Run a block without collectives; if it fails in one process, raise in all.

        Raises in every process what went wrong in it, or else a WamkitError with what went wrong
        in the first that failed.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        if self.world > 1:
            message = [None] if problem is None else _to_text(problem)
            every: list[Any] = [None] * self.world
            dist.all_gather_object(every, message)
            failed = [result for result in every if result[0] is not None]
            if problem is None and failed:
                problem = WamkitError(*failed[0])
        if problem is not None:
            raise problem

    def same(self, value: str) -> str:
        """Broadcast a text of the first process."""
        if self.world == 1:
            return value
        found: list[Any] = [value]
        dist.broadcast_object_list(found)
        return str(found[0])

    def any(self, here: bool) -> bool:
        """True if `here` is true in any process."""
        if self.world == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def mean(self, values: Tensor) -> Tensor:
        """Average values [n] over processes."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values


@contextmanager
def join_processes(device: str, timeout: float = WAIT) -> Iterator[Processes]:
    """Join the process group that torchrun started, within the block.

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
        raise _lost_error(error, timeout, world) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """True for what torch.distributed raises if another process ends or does not answer.

    Gloo has no class of errors of its own; it names its source.
    """
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def _lost_error(error: RuntimeError, timeout: float, world: int) -> WamkitError:
    """Return the error of a process that lost the others."""
    rank = os.environ.get("RANK", "?")
    late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
    what = f"did not answer for {timeout:g} s" if late else "ended"
    longer = "; if it was still at work, let the others wait longer: --train timeout=SECONDS"
    return WamkitError(
        f"process {rank} of {world} goes no further: another one {what}",
        "check the output of the others, stop those that still run, and continue with --resume"
        + (longer if late else ""),
    )


def _to_text(problem: Exception) -> list[str]:
    """Convert an error to text and hint that can be sent to another process."""
    if isinstance(problem, WamkitError):
        return [problem.what, problem.hint]
    if isinstance(problem, OSError):
        return [str(problem)]
    return [f"{type(problem).__name__}: {problem}"]


def gather_tensor(x: Tensor) -> Tensor:
    """Gather a sharded tensor from all processes."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def local_shard(x: Tensor) -> Tensor:
    """Local shard of a tensor, detached; a view."""
    x = x.detach()
    return x.to_local() if isinstance(x, DTensor) else x

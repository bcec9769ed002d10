"""Random weights: the same for the same seed, and no more than fit into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..config.spec import PolicySpec
from ..errors import WamkitError
from .bounded import bounded

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int | None:
    """Bytes of memory that this process may have at most; None where the system does not say."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in _CGROUPS:
        with suppress(OSError, ValueError):
            found.append(int(Path(file).read_text()))
    return min((size for size in found if size > 0), default=None)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Within this block modules may be made whose parameters fit into memory, all together.

    A parameter is counted when a module takes it, which torch does before it fills it. Raises
    WamkitError that names `what` is made.
    """
    most, total = memory(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or parameter.is_meta or most is None:
            return
        total += parameter.numel() * parameter.element_size()
        if total > most:
            raise WamkitError(
                f"the random weights of {what} need more than {most / 1e9:.1f} GB, which is all "
                "the memory of this machine",
                "try --tiny, make its sizes smaller, or name its published weights; wamkit "
                "estimate "
                "counts the parameters",
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def seeded(spec: PolicySpec, kind: str, make: Callable[[], Any], device: str) -> Any:
    """`make()` with torch's own generator seeded for this part, and put back afterwards.

    Raises WamkitError if the part has no published weights and needs more memory than there is.
    """
    with torch.random.fork_rng(devices=[]), bounded(f"the {kind.replace('_', ' ')}"):
        torch.manual_seed((spec.seed + crc32(kind.encode())) % 2**64)
        if device == "meta":
            with torch.device("meta"):
                return make()
        named = getattr(getattr(spec, kind, None), "weights", None)
        with nullcontext() if named else enough_memory(f"the {kind.replace('_', ' ')}"):
            return make()

"""Random weights: reproducible from a seed, and limited to the memory of the machine."""

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
from .limits import limit_parameters

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available_memory() -> int | None:
    """Bytes of memory that this process may have at most; None where the system does not say."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in _CGROUPS:
        with suppress(OSError, ValueError):
            found.append(int(Path(file).read_text()))
    return min((size for size in found if size > 0), default=None)


@contextmanager
def limit_memory(what: str) -> Iterator[None]:
    """Limit the parameters of modules built inside the `with` block to the memory available.

    A parameter counts when it is registered, before torch fills it. Raises WamkitError naming
    `what` is built.
    """
    most, total = available_memory(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or parameter.is_meta or most is None:
            return
        total += parameter.numel() * parameter.element_size()
        if total > most:
            raise WamkitError(
                f"the random weights of {what} need more than the {most / 1e9:.1f} GB of memory "
                "of this machine",
                "try --tiny, make its sizes smaller, or name its published weights; `wamkit "
                "estimate` counts the parameters",
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def build_seeded(spec: PolicySpec, kind: str, make: Callable[[], Any], device: str) -> Any:
    """Call `make` with torch's global generator seeded for this part, and restore it afterwards.

    Raises WamkitError if the part has no published weights and needs more memory than there is.
    """
    with torch.random.fork_rng(devices=[]), limit_parameters(f"the {kind.replace('_', ' ')}"):
        torch.manual_seed((spec.seed + crc32(kind.encode())) % 2**64)
        if device == "meta":
            with torch.device("meta"):
                return make()
        named = getattr(getattr(spec, kind, None), "weights", None)
        with nullcontext() if named else limit_memory(f"the {kind.replace('_', ' ')}"):
            return make()

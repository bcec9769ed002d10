"""Hooks that time or record method calls of a policy without changing its code path.

A hook wraps a method of one object while a `with` block lasts, and calls the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..acceleration.compile_modules import METHODS, blocks
from ..engine import attention
from ..interfaces.action_head import is_prefill
from ..policy.cost import Counter
from ..policy.policy import Policy
from ..policy.run_mode import captures
from .machine import seconds

Label = Callable[..., str]


@contextmanager
def hook_method(owner: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """`owner.name(...)` becomes `around(method, ...)` for as long as the block lasts."""
    if isinstance(owner, ModuleType):
        plain = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: around(plain, *args, **kwargs))
        try:
            yield
        finally:
            setattr(owner, name, plain)
        return
    before = owner.__dict__.get(name)
    method = getattr(owner, name)
    object.__setattr__(owner, name, lambda *args, **kwargs: around(method, *args, **kwargs))
    try:
        yield
    finally:
        object.__delattr__(owner, name)
        if before is not None:
            object.__setattr__(owner, name, before)


@dataclass
class Call:
    """One call of a stage."""

    stage: str
    seconds: float
    operations: int = 0
    bytes: int = 0


@dataclass
class StageRecorder:
    """The stages of a chunk, call by call, in the order in which they came."""

    device: torch.device
    counts: bool = False  # operations and bytes instead of seconds
    calls: list[Call] = field(default_factory=list)

    @contextmanager
    def record(self, policy: Policy) -> Iterator[None]:
        """Within, append a `Call` for every stage of `policy`."""
        places: list[tuple[Any, str, Label]] = [
            (policy.cameras, "canvas", lambda *_: "camera layout"),
            (policy.prompt_state, "get", lambda *_: "text"),
            (policy.vae, "encode", lambda *_: "VAE"),
            (policy, "to_action_chunk", lambda *_: "decode of actions"),
        ]
        if policy.conditioner is not None:
            places.append((policy.conditioner, "forward", lambda *_: "conditioner"))
        if captures(policy.mode):
            places.append((policy, "sample", lambda *_, **__: "network, one graph"))
        else:
            places.append((policy, "model", _pass))
        with ExitStack() as stack:
            for owner, name, label in places:
                stack.enter_context(hook_method(owner, name, self._time_calls(label)))
            yield

    def _time_calls(self, label: Label) -> Callable[..., Any]:
        def around(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            found: list[Any] = []
            call = Call(label(*args, **kwargs), 0.0)
            if self.counts:
                with Counter() as counter:
                    found.append(method(*args, **kwargs))
                call.operations, call.bytes = counter.operations, counter.bytes
            else:
                call.seconds = seconds(lambda: found.append(method(*args, **kwargs)), self.device)
            self.calls.append(call)
            return found[0]

        return around


def _pass(inputs: Any, cache: Any = None, keep: Any = ()) -> str:
    """Name of a network pass: its purpose, and its roles."""
    known = cache.roles if cache is not None else frozenset()
    denoised = inputs.roles - {"text", "state"}
    roles = ", ".join(sorted(denoised or inputs.roles))
    kind = "prefill" if is_prefill(inputs, keep) else "step"
    return f"{kind}: {roles}" + (" (cached: " + ", ".join(sorted(known)) + ")" if known else "")


class _Between(TorchDispatchMode):
    """Keeps what torch computes while it is not `inside` a call that is kept."""

    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        super().__init__()
        self.calls, self.depth = calls, 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Attribute computation within the block to one call."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not self.depth:
            self.calls.append(partial(func, *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@contextmanager
def record_calls(policy: Policy, calls: list[Callable[[], Any]]) -> Iterator[None]:
    """While this lasts, every call of a part's own methods is kept, to be made again by hand.

    So is every operation of torch between them, such as a solver's step.
    """
    between = _Between(calls)

    def around(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(partial(method, *args, **kwargs))
        with between.inside():
            return method(*args, **kwargs)

    head, backbone = policy.action_head, policy.backbone
    places: list[tuple[Any, str]] = [
        (policy.cameras, "canvas"),
        (policy.text_embeddings, "encode"),
        (policy.vae, "encode"),
        (policy, "to_action_chunk"),
        *((backbone, name) for name in ("patchify", "final_layer")),
        (attention, "_keys_of"),  # keys of a layer, new ones written behind those cached
        (attention, "attend_groups"),
        *((block, name) for block in blocks(policy) for name in METHODS),
        *((head, name) for name in HEAD if hasattr(head, name)),
    ]
    with ExitStack() as stack:
        for owner, name in places:
            stack.enter_context(hook_method(owner, name, around))
        stack.enter_context(between)
        yield


HEAD = (
    "embed_tokens",
    "decode_tokens",
    "slots",
    "decode_slot",
    "embed_text",
    "encode_hidden",
    "read",
)
"""Methods of an action head that compute."""

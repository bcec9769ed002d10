"""What runs through torch.compile: passes, blocks that learn, and a VAE's `encode`.

A pass of a policy that acts is one compiled function (`compile_pass`), in which equal layers are
compiled once. In training the methods of a block are compiled one by one, so that whatever is
wrapped around them, such as the gathering of sharded weights, stays outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WamkitError
from .single_frame_conv import SingleFrameVAE

METHODS = ("pre_attention", "post_attention")
"""Of a block (`wamkit.engine.attention.Block`): what is compiled."""


def compile_pass(function: Callable[..., Any], *, backend: str = "inductor") -> Callable[..., Any]:
    """A pure function of modules and tensors as one compiled graph for each set of shapes.

    Modules, their weights' dtypes and shapes, and plain values of the first argument are taken not
    to change: looking at them at every call takes longer than a small pass. Who calls it looks once
    a chunk, and compiles anew if they did (`PassRunner.renew`). Weights that are written in place
    are read where they lie.

    Raises:
        WamkitError: Something in it cannot be compiled; raised when it is called.
    """
    config = torch._dynamo.config
    # A policy meets more shapes than dynamo's default of 8: prefill and steps, role by role.
    config.recompile_limit = max(config.recompile_limit, 256)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 1024)
    options: dict[str, Any] = {"guard_filter_fn": _guards_of_inputs}
    if backend == "inductor":
        options["size_asserts"] = False
    compiled = torch.compile(
        own(function), backend=backend, fullgraph=True, dynamic=False, options=options
    )

    def run(*args: Any) -> Any:
        try:
            return compiled(*args)
        except torch._dynamo.exc.Unsupported as error:
            raise WamkitError(
                f"this policy cannot be compiled: {error.msg}",
                'let the methods of blocks only compute, or choose mode "eager"',
            ) from None

    return run


def _guards_of_inputs(entries: Sequence[Any]) -> list[bool]:
    """Which guards are kept: those of tensors and plain values that a step may change."""
    return [
        not entry.orig_guard.source.is_unspecialized_nn_module()
        and not entry.name.startswith(("L['plan']", "L['attend']", "G["))
        for entry in entries
    ]


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Within, what meets a new shape is compiled for that shape alone."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 256)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 1024)
    with config.patch(automatic_dynamic_shapes=False):
        yield


def own(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy with a code object of its own: what one policy compiles does not count for another."""
    assert isinstance(function, FunctionType)
    copied = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def compile_blocks(root: nn.Module, *, backend: str = "inductor") -> None:
    """Compile the methods of every block below `root` for where gradients are on.

    Blocks of a kind share what is compiled; without gradients they run as written.
    """
    made: dict[tuple[type, str], Callable[..., Any]] = {}
    for block in blocks(root):
        for name in METHODS:
            key = type(block), name
            if key not in made:
                hint = f"let {name} of {type(block).__name__} only compute, or leave compile out"
                made[key] = _compiled(getattr(type(block), name), backend, True, hint)
            setattr(block, name, MethodType(made[key], block))


def compile_encoder(vae: Any, *, backend: str = "inductor") -> None:
    """Compile a VAE's `encode` for single images; clips are encoded as written.

    A VAE that cannot be compiled says so by a class attribute, `compiles = False`.
    """
    kind = type(vae)
    if not getattr(kind, "compiles", True):
        return
    hint = f'give {kind.__name__} the attribute `compiles = False`, or choose mode "eager"'
    compiled = _compiled(kind.encode, backend, False, hint)

    def encode(vae: Any, pixels: Tensor) -> Tensor:
        single = pixels.shape[2] == 1  # a clip would be one region for every number of images
        if single and isinstance(vae, SingleFrameVAE):
            vae.fold_kernels()
        return (compiled if single else kind.encode)(vae, pixels)  # type: ignore[no-any-return]

    object.__setattr__(vae, "encode", MethodType(encode, vae))


def as_written(root: nn.Module) -> None:
    """Undo `compile_blocks`, and `compile_encoder` for a VAE below `root`."""
    getattr(root, "vae", root).__dict__.pop("encode", None)
    for block in blocks(root):
        for name in METHODS:
            block.__dict__.pop(name, None)


def blocks(root: nn.Module) -> Iterator[nn.Module]:
    """Every module that is opened at its self-attention (`wamkit.engine.attention.Block`)."""
    for module in root.modules():
        if all(hasattr(type(module), name) for name in METHODS):
            yield module


def _compiled(
    method: Callable[..., Any], backend: str, learns: bool, hint: str
) -> Callable[..., Any]:
    """A method that runs compiled where gradients are off, or on, and as written elsewhere."""
    compiled = torch.compile(own(method), backend=backend, fullgraph=True)

    def run(module: nn.Module, *args: Any) -> Any:
        if torch.is_grad_enabled() is not learns:
            return method(module, *args)
        try:
            with fixed_shapes():
                return compiled(module, *args)
        except torch._dynamo.exc.Unsupported as error:
            raise WamkitError(
                f"{type(module).__name__}.{method.__name__} cannot be compiled: {error.msg}", hint
            ) from None

    return run

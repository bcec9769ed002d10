"""What runs through torch.compile: passes, blocks that learn, and a VAE's `encode`.

A pass of a policy that acts is one compiled function (`CompiledPass`), in which equal layers are
compiled once. In training the methods of a block are compiled one by one, so that whatever is
wrapped around them, such as the gathering of sharded weights, stays outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import WamkitError
from .single_frame_conv import SingleFrameVAE

METHODS = ("pre_attention", "post_attention")
"""Of a block (`wamkit.engine.attention.Block`): what is compiled."""

INDUCTOR = {"size_asserts": False, "cpp.vec_isa_ok": True}
"""Shapes have guards already; and a compiler that torch supports knows the vector instructions of
the processor, of which inductor would try out each first, for five seconds."""


class Repeat(NamedTuple):
    """A call of compiled code, to be made again with other tensors in some places."""

    code: Callable[..., Any]  # graph inputs to graph outputs
    inputs: list[Any]
    places: list[int]  # of the tensors that change, among the inputs
    forms: list[Any]  # that the code takes for granted of them
    order: list[int]  # of the tensors in the result, among the outputs

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the code is made for tensors of these shapes, strides, dtypes and devices."""
        return _forms(tensors) == self.forms

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors in the result."""
        inputs = self.inputs.copy()
        for place, x in zip(self.places, tensors, strict=True):
            inputs[place] = x
        out = self.code(*inputs)
        return [out[i] for i in self.order]


def _forms(tensors: Sequence[Tensor]) -> list[Any]:
    return [(x.shape, x.stride(), x.dtype, x.device) for x in tensors]


class CompiledPass:
    """A pure function of modules and tensors as one compiled graph for each set of shapes.

    Modules, their weights' dtypes and shapes, and plain values of the first argument are taken not
    to change: looking at them at every call takes longer than a small pass. Who calls it looks once
    a chunk, and compiles anew if they did (`PassRunner.renew`). Weights that are written in place
    are read where they lie.
    """

    def __init__(self, function: Callable[..., Any], *, backend: str = "inductor") -> None:
        config = torch._dynamo.config
        # A policy meets more shapes than dynamo's default of 8: prefill and steps, role by role.
        config.recompile_limit = max(config.recompile_limit, 256)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 1024)
        self._patches = {"config_patches": INDUCTOR} if backend == "inductor" else {}
        self._backend = torch._dynamo.lookup_backend(backend)
        self._calls: list[Any] | None = None
        options: Any = {"guard_filter_fn": _guards_of_inputs}
        self._compiled = torch.compile(
            own(function), backend=self._watched, fullgraph=True, dynamic=False, options=options
        )

    def _watched(self, graph: Any, inputs: Any, **_: Any) -> Callable[..., Any]:
        """What the backend makes of a graph; its calls are recorded for `repeatable`."""
        code = self._backend(graph, inputs, **self._patches)

        def call(*given: Any) -> Any:
            out = code(*given)
            if self._calls is not None:
                self._calls.append((code, given, out))
            return out

        return call

    def __call__(self, *args: Any) -> Any:
        """The function's result. Raises WamkitError if something in it cannot be compiled."""
        try:
            return self._compiled(*args)
        except torch._dynamo.exc.Unsupported as error:
            raise WamkitError(
                f"this policy cannot be compiled: {error.msg}",
                'let the methods of blocks only compute, or choose mode "eager"',
            ) from None

    def repeatable(self, tensors: Sequence[Tensor], *args: Any) -> tuple[Any, Repeat | None]:
        """The result of a call, and how to make it again with others of its `tensors`.

        Whatever else it was given is then taken to be the same. None where the compiled code does
        not read each of the tensors as it is, or returns others than those in the result.
        """
        self._calls = []
        try:
            result = self(*args)
            code, given, out = self._calls[-1]
        finally:
            self._calls = None
        inputs, outputs = [*map(id, given)], [*map(id, out)]
        wanted, found = [*map(id, tensors)], [*map(id, tree_leaves(result))]
        if not {*wanted} <= {*inputs} or not {*found} <= {*outputs} or len({*wanted}) < len(wanted):
            return result, None
        places, order = [*map(inputs.index, wanted)], [*map(outputs.index, found)]
        return result, Repeat(code, list(given), places, _forms(tensors), order)


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

"""Methods of single modules through torch.compile: blocks that learn, and a VAE's `encode`.

How a policy that acts is compiled is said in `wamkit.acceleration.regions`. In training the methods
of a block are compiled one by one, so that whatever is wrapped around them, such as the gathering
of sharded weights, stays outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WamkitError
from .regions import fixed_shapes, own
from .single_frame_conv import Flat

METHODS = ("project", "absorb")
"""Of a block (`wamkit.engine.attention.Block`): what is compiled."""


def compile_blocks(root: nn.Module, *, backend: str = "inductor") -> None:
    """Compile the methods of every block below `root` for where gradients are on.

    Blocks of a kind share what is compiled; without gradients they run as written.
    """
    made: dict[tuple[type, str], Callable[..., Any]] = {}
    for block in blocks(root):
        for name in METHODS:
            key = type(block), name
            if key not in made:
                cure = f"let {name} of {type(block).__name__} only compute, or leave compile out"
                made[key] = _compiled(getattr(type(block), name), backend, True, cure)
                if name == "absorb" and hasattr(block, "told"):
                    made[key] = _told_first(made[key])
            setattr(block, name, MethodType(made[key], block))


def compile_encoder(vae: Any, *, backend: str = "inductor") -> None:
    """Compile a VAE's `encode` for single pictures; clips are encoded as written.

    A VAE that cannot be compiled says so by a class attribute, `compiles = False`.
    """
    kind = type(vae)
    if not getattr(kind, "compiles", True):
        return
    cure = f'give {kind.__name__} the attribute `compiles = False`, or choose mode "eager"'
    compiled = _compiled(kind.encode, backend, False, cure)

    def encode(vae: Any, pixels: Tensor) -> Tensor:
        single = pixels.shape[2] == 1  # a clip would be one region for every number of pictures
        if single and isinstance(vae, Flat):
            vae.ready()
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


def _told_first(absorb: Callable[..., Any]) -> Callable[..., Any]:
    """A block's `absorb` that asks for what is kept from call to call outside of compiled code."""

    def run(block: Any, attended: Tensor, rest: Any, cond: Any, told: Any = None) -> Any:
        return absorb(block, attended, rest, cond, block.told(cond) if told is None else told)

    return run


def _compiled(
    method: Callable[..., Any], backend: str, learns: bool, cure: str
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
                f"{type(module).__name__}.{method.__name__} cannot be compiled: {error.msg}", cure
            ) from None

    return run

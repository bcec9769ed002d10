"""Helpers for parity tests of a port: the same weights give the same values.

A port of a published network is tried at a tiny size: the reference class with
`randomize_parameters` weights is saved, its files are read by the part's own loader, and both
compute the same, forwards and backwards.

    reference = randomized(TheirTransformer(...))
    reference.save_pretrained(folder)
    ours = MyBackbone(weights=str(folder)).build()
    with float64():
        theirs, ours, frames, text = to_float64((reference, ours, frames, text))
        same_values(denoise(ours, frames, text), their_velocity(theirs, frames, text))
        wanted = velocity_gradients(theirs, frames, text, their_velocity)
        same_gradients(velocity_gradients(ours, frames, text), wanted)

In float64 a wrong formula stands out from rounding by many orders, on every processor. See
`wamkit.testing.tolerance` for what may be apart in float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..interfaces import denoise
from ..interfaces.types import Frames, Text
from .tolerance import float64, other_values, same_values, to_float64

__all__ = [
    "float64",
    "gradients",
    "other_values",
    "randomize_parameters",
    "same_gradients",
    "same_shapes",
    "same_values",
    "to_float64",
    "unused_modules",
    "velocity_gradients",
]

M = TypeVar("M", bound=nn.Module)


def randomize_parameters(model: M, small: str | None = None) -> M:
    """Draw every parameter anew, by the order of names, so that no norm, bias or table is trivial.

    Weights of norms are drawn around 1. What matches the expression `small` is drawn small: do so
    for the next norm, and the epsilons of two norms make a difference.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            draw = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_(1 + 0.2 * draw if "norm" in name and "weight" in name else 0.1 * draw)
            else:
                p.copy_(0.3 * draw if "table" in name else draw / p[0].numel() ** 0.5)
            if small is not None and re.search(small, name):
                p.mul_(0.03)
    return model


def gradients(model: nn.Module, loss: Callable[..., Tensor], **inputs: Tensor) -> dict[str, Tensor]:
    """The gradient of `loss(**inputs)` for every input and every parameter, by name.

    Gradients of unused inputs are 0.
    """
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    wanted = {**leaves, **dict(model.named_parameters())}
    found = torch.autograd.grad(loss(**leaves), list(wanted.values()), allow_unused=True)
    return {k: torch.zeros(()) if g is None else g for k, g in zip(wanted, found, strict=True)}


def velocity_gradients(
    model: Any,
    frames: Frames,
    text: Text,
    predict: Callable[[Any, Frames, Text], Tensor] = denoise,
) -> dict[str, Tensor]:
    """`gradients` of a fixed random projection of what `predict` makes of a model.

    The inputs are the latents `z` and the embeddings `text_tokens`.
    """

    def loss(z: Tensor, text_tokens: Tensor) -> Tensor:
        out = predict(model, replace(frames, z=z), replace(text, tokens=text_tokens))
        return (torch.randn(out.shape, generator=torch.Generator().manual_seed(3)) * out).mean()

    return gradients(model, loss, z=frames.z, text_tokens=text.tokens)


def same_gradients(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    silent: Sequence[str] = (),
    *,
    error: float | None = None,
) -> None:
    """The same gradients by name, each to `error` of its largest number, as in `same_values`.

    All are there but those of the names that match one of the expressions `silent`, which are 0.
    A gradient below a thousandth of the largest one is a sum that cancels: it is measured at that.
    """
    assert set(found) == set(wanted)
    unheard = {name for name in wanted if any(re.search(pattern, name) for pattern in silent)}
    for side in (found, wanted):
        assert unheard == {name for name, g in side.items() if not g.abs().max() > 0}
    scales = {name: float(wanted[name].abs().max()) for name in set(wanted) - unheard}
    least = 1e-3 * max(scales.values())
    for name, scale in sorted(scales.items()):
        pair = {name: found[name]}, {name: wanted[name]}
        same_values(*pair, error, scale=max(scale, least))


def same_shapes(
    ours: nn.Module, theirs: nn.Module, kept: Callable[[str], Any] = lambda name: True
) -> None:
    """Tensors of the same names and shapes, of theirs those that are `kept`; ours has no others."""
    wanted = {name: tuple(t.shape) for name, t in theirs.state_dict().items() if kept(name)}
    assert {name: tuple(t.shape) for name, t in ours.state_dict().items()} == wanted
    assert not list(ours.buffers())


def unused_modules(model: nn.Module, run: Callable[[], Any]) -> set[str]:
    """The linear layers of a model that `run` does not call as modules.

    Adapters and quantized layers stand in for modules: a layer whose weight is taken out and
    multiplied would not notice them.
    """
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in linear.items()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return set(linear) - called

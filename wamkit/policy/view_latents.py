"""Views that the VAE sees one by one, with latents laid on the canvas (`cameras.encode`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ..config.spec import PolicySpec

Coder = Callable[[Tensor], Tensor]
"""Images of a view to its latents, or back."""


def encode_by_view(spec: PolicySpec, encode: Coder, canvas: Tensor) -> Tensor:
    """Latents [B, C, T, h, w] float32 of a canvas [B, 3, T, height, width], view by view.

    The canvas may be a downscaled one.
    """
    _, rows, columns = spec.vae.stride
    size = canvas.shape[3] // rows, canvas.shape[4] // columns
    scale = spec.cameras.canvas[0] // canvas.shape[3]
    found: Tensor | None = None
    for top, left, height, width in _boxes(spec, scale):
        view = canvas[..., top : top + height, left : left + width]
        z = encode(view)
        if found is None:
            found = z.new_zeros(*z.shape[:3], *size)
        top, left = top // rows, left // columns
        found[..., top : top + z.shape[3], left : left + z.shape[4]] = z
    assert found is not None
    return found


def decode_by_view(spec: PolicySpec, decode: Coder, z: Tensor) -> Tensor:
    """The canvas [B, 3, T, height, width] of latents [B, C, t, h, w], view by view."""
    _, rows, columns = spec.vae.stride
    size = z.shape[3] * rows, z.shape[4] * columns
    scale = spec.cameras.canvas[0] // size[0]
    found: Tensor | None = None
    for top, left, height, width in _boxes(spec, scale):
        part = z[..., top // rows :, left // columns :][..., : height // rows, : width // columns]
        view = decode(part)
        if found is None:
            found = view.new_zeros(*view.shape[:3], *size)
        found[..., top : top + height, left : left + width] = view
    assert found is not None
    return found


def _boxes(spec: PolicySpec, scale: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, left, height and width of each view on a canvas that is `scale` times smaller."""
    for top, left, height, width in spec.cameras.boxes().values():
        yield top // scale, left // scale, height // scale, width // scale

"""What the tiny autoencoders are made of: 3 x 3 convolutions, and a residual block of three.

Letters as in `wamkit.interfaces.types`; N is images, of one clip or of several.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps height and width, but for its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """The inside of a residual block; published names count its rectifiers too."""
    return nn.Sequential(
        conv(inputs, outputs), nn.ReLU(), conv(outputs, outputs), nn.ReLU(), conv(outputs, outputs)
    )


class Block(nn.Module):
    """relu(x + convolutions of x), for x [N, D, h, w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = convolutions(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).relu()


def squash(z: Tensor) -> Tensor:
    """Latents held within -3 and 3, softly, as the decoders were trained."""
    return (z / 3).tanh() * 3

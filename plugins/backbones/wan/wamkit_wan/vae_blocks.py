"""The layers the Wan video VAE is made of: causal in time, and given their past by the caller.

Letters: B batch, C channels, T frames of the chunk, H and W height and width at the layer's own
resolution, N = B * T frames taken one by one.

A clip goes through the network in chunks: its first frame alone, then groups of frames. What a
causal layer needs of the frames before its chunk travels in `Chunk.past`, one dictionary per call,
so the modules hold no state and one module serves several threads.

Source: github.com/Wan-Video/Wan2.1 and Wan2.2 (Apache-2.0), in the layout of diffusers'
`AutoencoderKLWan`; attribute names are theirs because they are the names in the weight files.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.acceleration.single_frame_conv import single_frame_conv


@dataclass(frozen=True)
class Chunk:
    """Where a chunk stands in its clip, with the frames each layer saw just before it."""

    first: bool
    """This chunk is the first frame of the clip (first latent, when decoding)."""
    last: bool
    """Nothing comes after this chunk, so there is nothing to remember."""
    past: dict[nn.Module, Tensor]
    """Last input frames of each causal layer; shared by the chunks of one call."""

    def remember(self, layer: nn.Module, x: Tensor, frames: int) -> None:
        """Keep the last `frames` frames of x [B, C, T, H, W] for the layer's next chunk."""
        if not self.last:
            # A copy: a view would keep the whole chunk of every layer alive.
            self.past[layer] = x[:, :, -frames:].clone()


class CausalConv3d(nn.Conv3d):
    """Convolve each frame with the frames before it, never with those after it.

    Frames before the start of the clip are zeros. One frame with no past therefore meets only the
    last temporal slice of the kernel, and is convolved in two dimensions:

        past     0 0 |          frame alone
        kernel   a b c    =>    kernel c          (27 products per output become 9)
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int, int]
    ) -> None:
        size = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
        super().__init__(in_channels, out_channels, size, padding=(0, size[1] // 2, size[2] // 2))

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:  # type: ignore[override]
        """[B, in, T, H, W] -> [B, out, T, H, W]."""
        reach = self.kernel_size[0] - 1  # frames of the past that one output sees
        past = chunk.past.get(self)
        seen = x if past is None else torch.cat([past, x], dim=2)
        if reach:
            chunk.remember(self, seen, reach)
        if seen.shape[2] == 1:
            return single_frame_conv(self, x[:, :, 0], "zeros").unsqueeze(2)
        missing = reach - (seen.shape[2] - x.shape[2])
        return super().forward(F.pad(seen, (0, 0, 0, 0, missing, 0)) if missing else seen)


class ChannelRMSNorm(nn.Module):
    """Scale each position to a root mean square of one over its channels, then by `gamma`.

    `trailing` is the number of axes behind the channels: 3 for clips [B, C, T, H, W], 2 for
    frames [N, C, H, W]; the weight files store gamma with that many axes of length one.
    """

    def __init__(self, channels: int, trailing: int = 3) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * trailing))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype out; 16-bit inputs are normalized in float32."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        return F.normalize(wide, dim=1).to(x.dtype) * (self.gamma * self.scale)


class ResidualBlock(nn.Module):
    """Add to x two rounds of norm, SiLU and causal convolution.

    x --+-- norm1 - silu - conv1 - norm2 - silu - conv2 --(+)--
        +-------------- conv_shortcut (if widths differ) ---+
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.norm1 = ChannelRMSNorm(in_width)
        self.conv1 = CausalConv3d(in_width, out_width, 3)
        self.norm2 = ChannelRMSNorm(out_width)
        self.conv2 = CausalConv3d(out_width, out_width, 3)
        self.conv_shortcut = CausalConv3d(in_width, out_width, 1) if in_width != out_width else None

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, in, T, H, W] -> [B, out, T, H, W]."""
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x, chunk)
        x = self.conv1(F.silu(self.norm1(x)), chunk)
        x = self.conv2(F.silu(self.norm2(x)), chunk)
        return x + shortcut


def residual_blocks(in_width: int, out_width: int, count: int) -> nn.ModuleList:
    """Chain `count` residual blocks, the first of which changes the width."""
    widths = [in_width, *[out_width] * count]
    return nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))


class FrameAttention(nn.Module):
    """Let the positions of a frame attend to each other, one head, every frame for itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(width, trailing=2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> same."""
        frames, batch = fold_frames(x)  # [N, C, H, W]
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)  # [N, H*W, 3C]
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)  # each [N, 1, H*W, C]
        y = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        y = self.proj(y.transpose(1, 2).reshape(frames.shape))
        return x + unfold_frames(y, batch)


class MidBlock(nn.Module):
    """Attend within frames, between two residual blocks, at the lowest resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnets = residual_blocks(width, width, 2)
        self.attentions = nn.ModuleList([FrameAttention(width)])

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, C, T, H, W] -> same."""
        x = self.resnets[0](x, chunk)
        x = self.attentions[0](x)
        return self.resnets[1](x, chunk)


class Downsample(nn.Module):
    """Halve height and width, and with `time` the frames as well.

    The clip's first frame is never merged with another: it passes the time convolution unchanged
    and is the past of the next chunk.
    """

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2)
        )
        self.time_conv = nn.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1)) if time else None

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, C, T, H, W] -> [B, C, T', H/2, W/2]; T' is T/2, or 1 in the first chunk."""
        frames, batch = fold_frames(x)
        x = unfold_frames(self.resample(frames), batch)
        if self.time_conv is None:
            return x
        past = chunk.past.get(self)
        chunk.remember(self, x, 1)
        return x if past is None else self.time_conv(torch.cat([past, x], dim=2))


class Upsample(nn.Module):
    """Double height and width, and with `time` the frames as well.

    The clip's first latent holds one frame: it skips the time convolution, whose past begins
    (with zeros) at the second latent.
    """

    def __init__(self, in_width: int, out_width: int, time: bool) -> None:
        super().__init__()
        self.time_conv = CausalConv3d(in_width, 2 * in_width, (3, 1, 1)) if time else None
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"),
            nn.Conv2d(in_width, out_width, 3, padding=1),
        )

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, in, T, H, W] -> [B, out, T', 2H, 2W]; T' is 2T, or 1 in the first chunk."""
        if self.time_conv is not None and not chunk.first:
            pairs = self.time_conv(x, chunk).unflatten(1, (2, -1))  # [B, 2, C, T, H, W]
            x = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)  # [B, C, 2T, H, W]
        frames, batch = fold_frames(x)
        return unfold_frames(self.resample(frames), batch)


def mean_down(x: Tensor, width: int, time: int, space: int) -> Tensor:
    """Fold time x space x space cells into channels, then average neighbors down to `width`.

    [B, C, T, H, W] -> [B, width, ceil(T/time), H/space, W/space]. The first frame of a clip, alone
    in its chunk, is completed by zero frames in front of it.
    """
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    cells = x.unflatten(4, (-1, space)).unflatten(3, (-1, space)).unflatten(2, (-1, time))
    folded = cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)  # [B, C*time*space^2, T', H', W']
    return folded.unflatten(1, (width, -1)).mean(dim=2)


def repeat_up(x: Tensor, width: int, time: int, space: int, first: bool) -> Tensor:
    """Repeat channels, then unfold them into time x space x space cells of `width` channels.

    [B, C, T, H, W] -> [B, width, T*time, H*space, W*space]; in the `first` chunk only the last
    frame of the first `time` is kept, as the first latent holds one frame.
    """
    x = x.repeat_interleave(width * time * space * space // x.shape[1], dim=1)
    cells = x.unflatten(1, (width, time, space, space))  # [B, width, time, s, s, T, H, W]
    y = cells.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return y[:, :, time - 1 :] if first else y


def fold_frames(x: Tensor) -> tuple[Tensor, int]:
    """[B, C, T, H, W] -> frames [N, C, H, W], with B to undo it."""
    return x.transpose(1, 2).flatten(0, 1), x.shape[0]


def unfold_frames(frames: Tensor, batch: int) -> Tensor:
    """[N, C, H, W] -> [B, C, T, H, W]."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)

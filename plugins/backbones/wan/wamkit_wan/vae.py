"""The Wan causal video VAE: clips to normalized latents, normalized latents to clips.

Letters: B batch, C latent channels, T = 1 + 4k frames, H and W pixels, t = 1 + k latents,
h and w their height and width (H/8, or H/16 for Wan 2.2).

    frames    0 | 1 2 3 4 | 5 6 7 8 | ...      a latent never depends on a later frame,
    latents   0 |    1    |    2    | ...      so frame 0 alone gives the clip's latent 0

Wan 2.1's VAE (also that of Cosmos-Predict2 and of Qwen-Image) is `WAN21`, the one of Wan 2.2
TI2V-5B is `WAN22`. Source: github.com/Wan-Video/Wan2.1 `wan/modules/vae.py` and
github.com/Wan-Video/Wan2.2 `wan/modules/vae2_2.py` (Apache-2.0); keys and shapes are those of
diffusers' `AutoencoderKLWan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wamkit.acceleration.single_frame_conv import SingleFrameVAE
from wamkit.engine.layers import constant

from .latents import WAN21_MEAN, WAN21_STD, WAN22_MEAN, WAN22_STD
from .vae_blocks import CausalConv3d, Chunk
from .vae_decoder import Decoder
from .vae_encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class WanVAEShape:
    """The sizes and constants that make one Wan VAE."""

    base_width: int
    """Channels of the encoder's first convolution."""
    decoder_width: int
    """The same for the decoder's last stage."""
    latent_channels: int
    width_multipliers: tuple[int, ...]
    """Width of each stage, in base widths; height and width halve between stages."""
    residual_blocks: int
    """Residual blocks of an encoder stage; a decoder stage has one more."""
    temporal_downsample: tuple[bool, ...]
    """Whether each of the downsamplings between stages halves the frames as well."""
    residual: bool
    """Wan 2.2's stages, with a parameter-free shortcut around each."""
    patch: int
    """Side of the pixel squares folded into channels before encoding."""
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    """Mean and standard deviation of each latent channel, over Wan's training data."""

    def __post_init__(self) -> None:
        """Raise ValueError if the lengths of the fields do not fit each other."""
        lengths = (len(self.latents_mean), len(self.latents_std))
        if lengths != (self.latent_channels, self.latent_channels):
            raise ValueError(
                f"found {lengths[0]} latents_mean and {lengths[1]} latents_std for "
                f"{self.latent_channels} latent_channels; expected one of each per channel"
            )
        if len(self.temporal_downsample) != len(self.width_multipliers) - 1:
            raise ValueError(
                f"found {len(self.temporal_downsample)} temporal_downsample for "
                f"{len(self.width_multipliers)} width_multipliers; expected one between each two"
            )

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels per latent."""
        space = self.patch * 2 ** len(self.temporal_downsample)
        return 2 ** sum(self.temporal_downsample), space, space


# fmt: off
WAN21 = WanVAEShape(
    base_width=96, decoder_width=96, latent_channels=16, width_multipliers=(1, 2, 4, 4),
    residual_blocks=2, temporal_downsample=(False, True, True), residual=False, patch=1,
    latents_mean=WAN21_MEAN,
    latents_std=WAN21_STD,
)
WAN22 = WanVAEShape(
    base_width=160, decoder_width=256, latent_channels=48, width_multipliers=(1, 2, 4, 4),
    residual_blocks=2, temporal_downsample=(False, True, True), residual=True, patch=2,
    latents_mean=WAN22_MEAN,
    latents_std=WAN22_STD,
)
# fmt: on
SHAPES = {"wan2.1": WAN21, "wan2.2": WAN22}


def tiny(shape: WanVAEShape) -> WanVAEShape:
    """Narrow a shape to widths of a few channels; keys, strides and constants stay as they are."""
    decoder_width = 4 if shape.decoder_width == shape.base_width else 6
    return replace(shape, base_width=4, decoder_width=decoder_width)


class WanVAE(SingleFrameVAE):
    """Encode clips to latents of mean 0 and deviation 1 per channel, and decode them.

    The state dict has the keys and shapes of diffusers' `AutoencoderKLWan`; `vae_weights` renames
    those of the original files. There are no buffers: a model built on the meta device is complete
    once `load_state_dict(..., assign=True)` has given it its weights.
    """

    def __init__(self, config: WanVAEShape) -> None:
        super().__init__()
        self.config = config
        self.channels = config.latent_channels
        self.stride = config.stride
        pixel_channels = 3 * config.patch**2
        self.encoder = Encoder(
            in_channels=pixel_channels,
            out_channels=2 * self.channels,
            base_width=config.base_width,
            widths=[config.base_width * m for m in config.width_multipliers],
            depth=config.residual_blocks,
            temporal=config.temporal_downsample,
            residual=config.residual,
        )
        causal = (layer for layer in self.encoder.modules() if isinstance(layer, CausalConv3d))
        self.fold_convs(causal, "zeros")
        self.quant_conv = nn.Conv3d(2 * self.channels, 2 * self.channels, 1)
        self.post_quant_conv = nn.Conv3d(self.channels, self.channels, 1)
        self.decoder = Decoder(
            in_channels=self.channels,
            out_channels=pixel_channels,
            widths=[config.decoder_width * m for m in reversed(config.width_multipliers)],
            depth=config.residual_blocks + 1,
            temporal=config.temporal_downsample[::-1],
            residual=config.residual,
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the normalized mean of the posterior.

        pixels [B, 3, T, H, W] in [-1, 1] -> z [B, C, t, h, w]. T is 1 + 4k; H and W are multiples
        of the stride. Raises ValueError for any other shape.
        """
        return self._encode(pixels, None, ends=True)[0]

    def encode_next(
        self, pixels: Tensor, past: Mapping[nn.Module, Tensor] | None = None
    ) -> tuple[Tensor, Mapping[nn.Module, Tensor]]:
        """The next latents of a clip that comes in pieces, as `wamkit.interfaces.StreamingVAE`.

        `past` holds the last input frames of each causal layer. Raises ValueError as `encode`.
        """
        return self._encode(pixels, past, ends=False)

    def _encode(
        self, pixels: Tensor, past: Mapping[nn.Module, Tensor] | None, *, ends: bool
    ) -> tuple[Tensor, Mapping[nn.Module, Tensor]]:
        """The latents of a clip or of its next piece, and what the next one needs of it.

        Args:
            pixels: [B, 3, T, H, W].
            past: What was returned for the piece before; None at the beginning of a clip.
            ends: Whether no other piece follows, so that nothing need be kept.
        """
        self._check_pixels(pixels, first=past is None)
        self.fold_kernels()
        x = patchify(pixels, self.config.patch)  # [B, 3*p*p, T, H/p, W/p]
        chunks = [x[:, :, :1]] if past is None else []
        rest = x[:, :, len(chunks) :]
        chunks += rest.split(self.stride[0], dim=2) if rest.shape[2] else ()
        features, known = by_chunks(self.encoder, chunks, past, ends=ends)
        moments = self.quant_conv(features)  # [B, 2C, t, h, w]
        mean, std = self._latent_constants(moments)
        return (moments[:, : self.channels] - mean) / std, known

    def decode(self, z: Tensor) -> Tensor:
        """Decode a normalized latent to a clip.

        z [B, C, t, h, w] -> pixels [B, 3, 1 + 4(t - 1), H, W], clamped to [-1, 1]. Raises
        ValueError if z has another number of axes or channels.
        """
        if z.ndim != 5 or z.shape[1] != self.channels or z.shape[2] < 1:
            raise ValueError(
                f"found latents of shape {list(z.shape)}; "
                f"expected [B, {self.channels}, t, h, w] with t >= 1"
            )
        mean, std = self._latent_constants(z)
        x = self.post_quant_conv(z * std + mean)
        y, _ = by_chunks(self.decoder, x.split(1, dim=2))  # [B, 3*p*p, T, H/p, W/p]
        return unpatchify(y, self.config.patch).clamp(-1, 1)

    def _check_pixels(self, pixels: Tensor, *, first: bool = True) -> None:
        frames, rows, columns = self.stride
        expected = (
            f"expected [B, 3, T, H, W] with T = {'1 + ' * first}{frames}k, "
            f"H a multiple of {rows} and W a multiple of {columns}"
        )
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise ValueError(f"found pixels of shape {list(pixels.shape)}; {expected}")
        T, H, W = pixels.shape[2:]
        if T % frames != first or not T or H % rows or W % columns:
            raise ValueError(f"found pixels with T = {T}, H = {H}, W = {W}; {expected}")

    def _latent_constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each latent channel, [C, 1, 1, 1], on the device of `like`."""
        mean = constant(self.config.latents_mean, like.dtype, like.device)
        std = constant(self.config.latents_std, like.dtype, like.device)
        return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)


def by_chunks(
    network: nn.Module,
    chunks: Sequence[Tensor],
    past: Mapping[nn.Module, Tensor] | None = None,
    *,
    ends: bool = True,
) -> tuple[Tensor, Mapping[nn.Module, Tensor]]:
    """Run the chunks of one clip in order, and join the results in time.

    Args:
        network: Called with each chunk and its `Chunk`.
        chunks: Each [B, C, T, H, W].
        past: The last input frames of each causal layer; None at the beginning of the clip.
        ends: Whether the last chunk is the clip's last, behind which nothing is kept.

    Returns:
        The results [B, C', T', H', W'], and the past of the chunk that follows.
    """
    known, last = dict(past or {}), len(chunks) - 1
    outputs = [
        network(x, Chunk(first=past is None and i == 0, last=ends and i == last, past=known))
        for i, x in enumerate(chunks)
    ]
    return torch.cat(outputs, dim=2), known


def patchify(x: Tensor, patch: int) -> Tensor:
    """Fold squares of pixels into channels, columns before rows.

    [B, C, T, H, W] -> [B, C*p*p, T, H/p, W/p].
    """
    squares = x.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # [B, C, T, H/p, p, W/p, p]
    return squares.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """Undo `patchify`: [B, C*p*p, T, H/p, W/p] -> [B, C, T, H, W]."""
    squares = x.unflatten(1, (-1, patch, patch))  # [B, C, p, p, T, H/p, W/p]
    return squares.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)

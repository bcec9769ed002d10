"""A FLUX transformer between its two ends, as far as both generations agree.

    text [B, L, W]      --+
    z [B, C, T, h, w]   --+--embed--> x [B, L + S, D] --blocks--> x --unembed--> velocity

FLUX predicts noise - data, which is wamkit's velocity as it is. Noise levels are multiplied by 1000
in float32, before anything is rounded to the dtype of the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.attention import Block, sdpa
from wamkit.errors import WamkitError
from wamkit.layers import modulated, rotary_angles, sinusoid
from wamkit.types import Frames, Segment, Text

from .blocks import Conditioning, Lanes, lanes_of

if TYPE_CHECKING:
    from . import Flux1, Flux2

LEVELS = 256  # width of the sinusoid of a noise level


def embedded(embedder: nn.Module, level: Tensor) -> Tensor:
    """A noise level or guidance scale [...], times 1000, as [..., D] float32."""
    dtype = next(embedder.parameters()).dtype
    return embedder(sinusoid(1000 * level.float(), LEVELS).to(dtype)).float()


class LastNorm(nn.Module):
    """The norm before the way out, scaled and shifted by the noise level, scale first."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width, bias=bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x [B, T, n, D] and level [B, T, D] to [B, T, n, D]."""
        table = self.linear(F.silu(level).to(self.linear.weight.dtype))
        scale, shift = table.float().unsqueeze(2).chunk(2, -1)  # [B, T, 1, D]
        return modulated(x, shift, scale)


class FluxBackbone(nn.Module, ABC):
    """`VideoBackbone` of either generation; every frame has a noise level of its own.

    Frames of role `context` are reference images: the k-th stands at `reference` * (k + 1) on the
    first axis of positions, all other frames stand at 0. Times of frames are not looked at.
    """

    attend = staticmethod(sdpa)
    reference: ClassVar[int]
    theta: ClassVar[float]
    axes: tuple[int, ...]
    """Numbers of a head that turn with each axis: image, row, column, and word in FLUX.2."""
    x_embedder: nn.Linear
    context_embedder: nn.Linear
    transformer_blocks: nn.ModuleList
    single_transformer_blocks: nn.ModuleList
    norm_out: LastNorm
    proj_out: nn.Linear

    def __init__(self, config: Flux1 | Flux2) -> None:
        super().__init__()
        self.config, self.traits = config, config.traits

    @abstractmethod
    def level(self, sigma: Tensor, text: Text | None) -> Tensor:
        """Noise levels sigma [B, g], and all else that is not a token, to [B, g, D] float32."""

    @abstractmethod
    def shared(self, levels: Lanes) -> tuple[Lanes, Lanes]:
        """The modulation that all double and all single blocks share, if they do."""

    @property
    def blocks(self) -> list[Block]:
        """Double blocks, then single ones."""
        return [*self.transformer_blocks, *self.single_transformer_blocks]  # type: ignore[list-item]

    def embed(
        self, video: Frames, text: Text | None
    ) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Words, then tokens in the order of frames, rows and columns.

        Raises WamkitError for guide channels, and for image tokens that are missing or not wanted.
        """
        self._require(video, text)
        tokens, shape = self._frames(video)
        segments = video.segments(shape[1] * shape[2])
        turn = video.memo.once(
            (id(self), "turn"), lambda: self._turn_frames(video, shape), of=video.times
        )
        if text is None:
            return tokens, segments, self._conditioning([video.sigma], None, shape, turn)
        words, of = text.memo.once((id(self), "words"), lambda: self._words(text), of=text.tokens)
        segments = (Segment("text", words.shape[1], text.mask), *segments)
        turn = torch.cat([of[0], turn[0]]), torch.cat([of[1], turn[1]])
        sigmas = [self._sigma_of_words(video), video.sigma]
        cond = self._conditioning(sigmas, text, shape, turn)
        return torch.cat([words, tokens], 1), segments, cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        y = self.proj_out(self.norm_out(lanes_of(x, cond)[-1], cond.level[-1]))
        y = y.unflatten(2, cond.shape[1:]).unflatten(-1, (-1, *self.traits.patch[1:]))
        return y.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)

    def _require(self, video: Frames, text: Text | None) -> None:
        """Raise WamkitError for inputs that this model does not take, or lacks."""
        name, wanted = self.config.name, self.traits.image_width
        if video.guide is not None:
            raise WamkitError(
                f"found {video.guide.shape[1]} guide channels; {name} takes none",
                "leave out Frames(guide=...); references are frames of role context",
            )
        image = 0 if text is None or text.image is None else text.image.shape[-1]
        if image != wanted:
            raise WamkitError(
                f"found image tokens of width {image}; this variant of {name} takes width "
                f"{wanted} (0 is none)",
                "give Text(image=...), the pooled CLIP vector [B, 1, width] of the words, in every "
                "pass; the words cannot be cached"
                if wanted
                else "leave out Text(image=...)",
            )

    def _frames(self, video: Frames) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens [B, S, D] of the frames; and frames, token rows, token columns."""
        z = video.z
        for axis, size in zip((2, 4, 6), self.traits.patch, strict=True):
            z = z.unflatten(axis, (-1, size))  # at last [B, C, T, 1, rows, p, columns, p]
        z = z.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)  # [B, T, rows, columns, C * p * p]
        _, frames, rows, columns, _ = z.shape
        tokens = self.x_embedder(z.flatten(1, 3).to(self.x_embedder.weight.dtype))
        return tokens, (frames, rows, columns)

    def _words(self, text: Text) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Tokens [B, L, D] of the words, and cos and sin [L, E / 2] of their places."""
        words = self.context_embedder(text.tokens.to(self.context_embedder.weight.dtype))
        row = torch.arange(words.shape[1], device=words.device)
        none = torch.zeros_like(row)
        return words, self._turn([none, none, none, row][: len(self.axes)])

    def _sigma_of_words(self, video: Frames) -> Tensor:
        """Noise level [B, 1] of the words; see `text_sigma` of the configuration."""
        noisy = [i for i, role in enumerate(video.roles) if role != "context"]
        if self.config.text_sigma == "target" and noisy:
            return video.sigma[:, noisy[:1]]
        return torch.zeros_like(video.sigma[:, :1])

    def _conditioning(
        self,
        sigmas: Lanes,
        text: Text | None,
        shape: tuple[int, int, int],
        turn: tuple[Tensor, Tensor],
    ) -> Conditioning:
        level = self.level(torch.cat(sigmas, 1), text)
        levels = list(level.split([sigma.shape[1] for sigma in sigmas], 1))
        words = 0 if text is None else text.tokens.shape[1]
        return Conditioning(words, shape, levels, *self.shared(levels), *turn)

    def _turn_frames(self, video: Frames, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] of the places of all video tokens."""
        device = video.z.device
        references = video.where("context")
        images = [0] * len(video.roles)
        for k, i in enumerate(references):
            images[i] = self.reference * (k + 1)
        axes = [torch.tensor(images, device=device)]
        axes += [torch.arange(size, device=device) for size in shape[1:]]
        places = [place.flatten() for place in torch.meshgrid(*axes, indexing="ij")]
        return self._turn([*places, torch.zeros_like(places[0])][: len(self.axes)])

    def _turn(self, places: list[Tensor]) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] float32 of places [S] on each axis."""
        angles = torch.cat(
            [
                rotary_angles(place, size, theta=self.theta)
                for place, size in zip(places, self.axes, strict=True)
            ],
            -1,
        )
        return angles.cos().float(), angles.sin().float()

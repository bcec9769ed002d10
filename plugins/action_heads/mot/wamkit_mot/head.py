"""The action head `mot`: numbers to tokens of an expert, and its tokens to velocities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from wamkit.acceleration.memo import Rungs, of_level
from wamkit.config.parts import BackboneConfig, Sizes
from wamkit.engine.attention import Block, Stream
from wamkit.engine.layers import Embedder, latent_times, modulated, rotary_angles, sinusoid
from wamkit.interfaces import ExpertHead, VideoBackbone
from wamkit.interfaces.types import PARTS, Scene, Segment

from .blocks import LEVELS, ConditionEmbedder, Conditioning, ExpertBlock, Turn, embedded
from .interpolate import from_video
from .tokens import Row, Tokens, for_tokens, levels, rows, segments, spans

if TYPE_CHECKING:
    from . import Mot


class Places(NamedTuple):
    """Whose the tokens of a pass are and where they stand, in the form that the expert wants."""

    held: tuple[Tensor | None, ...]  # the times that these were made from
    segments: tuple[Segment, ...]
    spans: Mapping[str, slice]  # part -> the tokens that tell its velocity
    wave: Tensor | None  # [S, D] float32, added to the tokens
    turn: Turn | None  # for own blocks
    at: Tensor  # [S, 3] float32, for blocks of the backbone's kind


class AdaptiveDecoder(nn.Module):
    """Norm, scale and shift by the noise level, and a linear layer that begins with zeros.

    Wan's way out; Efficient-WAM (arXiv 2606.10040, `models/action_expert.py`) has it for actions.
    """

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.proj_out = nn.Linear(width, numbers)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x [B, n, D] and embedded levels [B, n or 1, D] float32 to [B, n, A]."""
        table = self.scale_shift_table.float()
        return self.proj_out(modulated(x, table[:, :1] + level, table[:, 1:] + level))


def encoder(numbers: int, width: int, layers: int) -> nn.Module:
    """Linear layers with SiLU between them; a bare linear layer if it is one."""
    first = nn.Linear(numbers, width)
    rest = [m for _ in range(layers - 1) for m in (nn.SiLU(), nn.Linear(width, width))]
    return nn.Sequential(first, *rest) if rest else first


def _clean(encoder: nn.Module, x: Tensor) -> Tensor:
    return encoder(x.to(dtype_of(encoder)))  # type: ignore[no-any-return]


def dtype_of(module: nn.Module) -> torch.dtype:
    """That of the module's first weight."""
    return next(module.parameters()).dtype


class MotHead(ExpertHead):
    """`ExpertHead` that denoises numbers beside any backbone."""

    def __init__(self, config: Mot, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.layers = config.awake(sizes.traits)
        width, traits = config.width, sizes.traits
        for part in sizes.predicts:
            numbers = sizes.numbers(part)
            self.add_module(f"{part}_encoder", encoder(numbers, width, config.encoder_layers))
            adaptive = config.decoder == "adaln"
            decoder = AdaptiveDecoder if adaptive else nn.Linear
            self.add_module(f"{part}_decoder", decoder(width, numbers))
        self.state_encoder: nn.Module | None = None
        if sizes.state and config.state != "none":
            goal = traits.text_width if config.state == "text" else width
            self.state_encoder = encoder(sizes.state, goal, config.encoder_layers)
        if config.registers:
            self.registers = nn.Parameter(0.02 * torch.randn(config.registers, width))
        self.condition_embedder: ConditionEmbedder | None = None
        self.level_embedder: Embedder | None = None
        self.expert: Any
        if config.block == "own":
            reads = config.text == "cross"
            self.condition_embedder = ConditionEmbedder(width, traits.text_width if reads else 0)
            self.expert = nn.ModuleList(
                ExpertBlock(width, config.feed_forward, traits, text=reads, bias=config.bias)
                for _ in self.layers
            )
        else:
            self.expert = self._stack().expert(width, config.feed_forward)
            if config.decoder == "adaln":
                self.level_embedder = Embedder(LEVELS, width, nn.SiLU())

    @property
    def keep_float32(self) -> tuple[str, ...]:
        """What runs in float32 whatever the rest runs in; a copied block knows its own."""
        if self.config.block == "own":
            return "time_embedder", "scale_shift_table", "norm"
        theirs = getattr(self.expert, "keep_float32", ())
        inside = (rf"^expert\.{p[1:] if p.startswith('^') else f'.*(?:{p})'}" for p in theirs)
        return r"^level_embedder\.", r"_decoder\.scale_shift_table$", *inside

    def _stack(self) -> BackboneConfig:
        """The backbone, with no more blocks than the expert is to have."""
        backbone, traits = self.sizes.backbone, self.sizes.traits
        if len(self.layers) == traits.depth:
            return backbone
        return backbone.resized(self.layers, traits.heads, traits.feed_forward)

    @property
    def blocks(self) -> Sequence[Block | None]:
        stack = self.expert if self.config.block == "own" else self.expert.blocks
        found: list[Block | None] = [None] * self.sizes.traits.depth
        for layer, block in zip(self.layers, stack, strict=True):
            found[layer] = block
        return found

    def prepare(self, scene: Scene) -> Scene:
        """The state as one more word, read by video and action alike."""
        if self.config.state != "text" or self.state_encoder is None or scene.state is None:
            return scene
        encoder, state = self.state_encoder, scene.state
        text = scene.text.memo.once(
            (id(self), "state"),
            lambda: scene.text.append(encoder(state.to(dtype_of(encoder)))[:, None]),
            of=state,
        )
        return scene.with_(text=text)

    def stream(
        self, backbone: VideoBackbone, scene: Scene, known: Collection[str]
    ) -> Stream | None:
        config = self.config
        found = list(
            rows(
                scene,
                known,
                chunk=self.sizes.chunk,
                state=config.state,
                registers=config.registers,
            )
        )
        if not found:
            return None
        tokens, places = [self._encoded(row, scene) for row in found], self._places(scene, found)
        x = tokens[0] if len(tokens) == 1 else torch.cat(tokens, 1)
        if places.wave is not None:
            x = x + places.wave.to(x.dtype)
        cond, level = self._condition(scene, found, places)
        return Tokens(self.blocks, x, places.segments, cond, places.spans, level)

    def _encoded(self, row: Row, scene: Scene) -> Tensor:
        """The tokens of a row [B, n, D]; those of the state are kept."""
        if row.x is None:
            tokens = self.registers.to(dtype_of(self.get_submodule("action_encoder")))
            return tokens.expand(len(row.sigma), -1, -1)
        encoder, x = self.get_submodule(f"{row.kind}_encoder"), row.x
        if row.kind != "state":
            return encoder(x.to(dtype_of(encoder)))  # type: ignore[no-any-return]
        key = (id(self), "state token")
        make = partial(_clean, encoder, x)
        return scene.text.memo.once(key, make, of=scene.state)

    def _places(self, scene: Scene, found: Sequence[Row]) -> Places:
        """The tokens' places, made once for as long as the numbers of the scene stand there."""
        noisy = [getattr(scene, part) for part in PARTS[1:]]
        held = tuple(None if part is None else part.times for part in noisy)
        key = (id(self), "places", *((row.kind, row.roles) for row in found), *map(id, held))

        def make() -> Places:
            at = self._placed(torch.cat([row.places for row in found]))
            return Places(held, segments(found), spans(found), *at)

        return scene.text.memo.once(key, make)

    def _placed(self, places: Tensor) -> tuple[Tensor | None, Turn | None, Tensor]:
        """What the blocks and the tokens want to know of places [S] on the axis of actions."""
        kind, wave, turn = self.config.positions, None, None
        times = torch.zeros_like(places)
        if kind == "sinusoid":  # the state before the chunk is the first, sines come first
            wave = sinusoid(places + 1, self.config.width).roll(self.config.width // 2, -1)
        if kind == "rotary":
            angles = rotary_angles(places, self.sizes.traits.head_size)
            times, turn = places, (angles.cos().float(), angles.sin().float())
        if kind == "grid":
            times = latent_times(places, self.sizes.chunk, self.sizes.frames)
        off = torch.full_like(times, -1)  # beside the rows and columns of any picture
        return wave, turn, torch.stack([times, off, off], -1)

    def _condition(
        self, scene: Scene, tokens: Sequence[Row], places: Places
    ) -> tuple[Any, Tensor | None]:
        """What the blocks are conditioned on, and the levels [B, S or 1, D] a decoder wants."""
        columns, embedder = levels(tokens), self.condition_embedder
        adaptive = self.config.decoder == "adaln"
        if embedder is None:
            sigma = for_tokens([column.sigma for column in columns], columns, 1)
            counts = [sum(column.counts) for column in columns]
            sigma = sigma.expand(-1, sum(counts))
            parts = [(column.rung, n) for column, n in zip(columns, counts, strict=True)]
            rungs = Rungs.row(parts, sigma)
            cond = self.expert.place(sigma, places.at, scene.text, rungs)
            if not adaptive:
                return cond, None
        memo, key = scene.text.memo, (id(self), "level")
        found = [of_level(memo, key, self._told, column.sigma, column.rung) for column in columns]
        level = for_tokens([x for x, *_ in found], columns, 1) if adaptive else None
        if embedder is not None:
            modulation = for_tokens([x for _, x in found], columns, 2)
            cond = Conditioning(modulation, places.turn, embedder.words(scene.text), scene.text)
        return cond, level

    def _told(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """Levels [B, G] embedded [B, G, D], and for own blocks their modulation [B, 6, G, D]."""
        own = self.condition_embedder
        if own is None:
            assert self.level_embedder is not None
            return (embedded(self.level_embedder, sigma),)
        level = embedded(own.time_embedder, sigma)
        return level, own.modulation(level)

    def unembed(self, stream: Stream) -> dict[str, Tensor]:
        assert isinstance(stream, Tokens)
        velocities = {}
        for part, span in stream.spans.items():
            x, level = stream.x[:, span], stream.level
            given = () if level is None else (level if level.shape[1] == 1 else level[:, span],)
            velocities[part] = self.get_submodule(f"{part}_decoder")(x, *given)
        return velocities

    def initialize_from(self, backbone: VideoBackbone) -> None:
        """With init = "video", take the backbone's weights. Raises WamkitError if none fit."""
        if self.config.init == "video" and self.config.weights is None:
            from_video(self, backbone)

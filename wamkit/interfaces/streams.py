"""Frames and their prompt at the entrance of a backbone, and its velocities at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config.visibility import LayerVisibility, everyone
from ..engine.attention import Segment, Stream
from ..engine.device import constant
from ..engine.kv_cache import KVCache
from ..engine.levels import CLEAN, Level, LevelTable, level_of
from ..engine.passes import Ends, PassRunner, autocast
from ..errors import WamkitError
from .backbone import Backbone, Clip
from .types import Frames, ModelInputs, Text


@dataclass(frozen=True)
class Video:
    """Frames at the entrance of a backbone's stack, with text tokens where these are a stream."""

    frames: Stream
    text: Stream | None
    clip: Clip
    modulation: Tensor | None  # rows [B or 1, G, ...] for the final layer; G is T or 1

    @property
    def streams(self) -> list[Stream]:
        """Text if it is a stream, then frames."""
        return [self.frames] if self.text is None else [self.text, self.frames]


def embed_video(
    runner: PassRunner,
    backbone: Backbone,
    frames: Frames,
    text: Text,
    *,
    text_level: Level | Tensor = CLEAN,
    with_text: bool = True,
) -> Video:
    """Frames and prompt at the entrance of a backbone's stack.

    Args:
        runner: Keeps what does not change.
        backbone: Whose stack it is.
        frames: The clip.
        text: The prompt.
        text_level: The noise level of text tokens in a stream; a tensor is [B, 1].
        with_text: False where text tokens in a stream are cached, or in another stream.

    Raises:
        WamkitError: Conditioning latents or conditioner tokens are missing, or not wanted.
    """
    _expect(backbone, frames, text)
    z, traits, device = frames.z, backbone.traits, frames.z.device
    batch, count = z.shape[0], len(frames.roles)
    _, rows, columns = traits.patch_size
    grid = count, z.shape[3] // rows, z.shape[4] // columns
    levels = LevelTable.of(_frame_sigmas(frames, backbone.reference_sigma), batch, device)
    if frames.views:
        levels = levels.by_view(frames.views)
    pooled = text.cond_embeds if backbone.reads_pooled else None
    pooled = None if pooled is None else pooled[:, 0]
    fixed = (levels, pooled, text)
    ends = _ends(backbone)
    entry, final = runner.rows(ends, *runner.modulation(backbone, ends, "ends", *fixed))
    clip = Clip(
        z,
        levels,
        frames.is_given,
        frames.is_reference,
        frames.is_vector,
        grid,
        frames.cond_latents,
        ranks=tuple(frames.roles[:i].count(role) for i, role in enumerate(frames.roles)),
    )
    layout = frames.times, frames.roles, grid, device
    rotary = runner.get_or_compute(
        (backbone, "grid", layout),
        lambda: backbone.embed_grid(
            backbone.positions(
                torch.tensor(frames.times, dtype=torch.float64, device=device),
                clip._replace(latents=z[:0], cond_latents=None),
            ),
            grid,
        ),
    )
    clip = clip._replace(positions=rotary, modulation=entry)
    tokens = backbone.patchify(clip)
    modulation, index = runner.modulation(backbone, backbone.blocks, "blocks", *fixed)
    cond, text_kv = None, None
    streams_text = traits.text == "stream"
    if not streams_text:
        cond, text_kv = runner.text(backbone, backbone.blocks, text)
    segments = frames.segments(tokens.shape[1] // count)
    stream = Stream(
        tuple(backbone.blocks),
        *(tokens, segments, index, modulation, rotary, text_kv, cond),
        views_apart=_views_apart(backbone) if frames.views else (),
    )
    text_stream = None
    if with_text and streams_text and text.length:
        text_stream = _text_stream(runner, backbone, text, text_level, grid, pooled, batch)
    return Video(stream, text_stream, clip, final)


def _text_stream(
    runner: PassRunner,
    backbone: Backbone,
    text: Text,
    level: Level | Tensor,
    grid: tuple[int, int, int],
    pooled: Tensor | None,
    batch: int,
) -> Stream:
    """The prompt as a stream of its own."""
    cond = runner.text_tokens(backbone, text)
    assert cond.tokens is not None
    device, whole = cond.tokens.device, text.whole
    levels = LevelTable.of([(level, 1)], batch, device)
    modulation, index = runner.modulation(
        backbone, backbone.text_blocks, "text blocks", levels, pooled, text
    )

    def make() -> Any:
        return backbone.embed_positions(backbone.text_positions(whole, grid))

    key = "positions", backbone, grid, autocast()
    if runner.live:
        rotary = make()
    else:
        cache = text.prompt_cache if text.suffix is None else text.chunk_cache
        if key not in cache:
            cache[key] = make()
        rotary = cache[key]
    segments = (Segment("text", cond.tokens.shape[1], whole.mask),)
    blocks = tuple(backbone.text_blocks)
    return Stream(blocks, cond.tokens, segments, index, modulation, rotary)


def embed_videos(
    runner: PassRunner, backbone: Backbone, inputs: ModelInputs, cache: KVCache | None = None
) -> dict[str, Video]:
    """The clips of the inputs at the entrance of the stack, under "video" and "future"."""
    videos: dict[str, Video] = {}
    level = text_level(backbone, inputs)
    cached = cache is not None and "text" in cache.roles
    for name in ("video", "future"):
        frames = getattr(inputs, name)
        if frames is not None:  # one row of text tokens is enough where they are a stream
            videos[name] = embed_video(
                runner,
                backbone,
                frames,
                inputs.text,
                text_level=level,
                with_text=not videos and not cached,
            )
    return videos


def text_level(backbone: Backbone, inputs: ModelInputs) -> Level | Tensor:
    """The noise level of text tokens in a stream: an entry of a run, or [B, 1].

    That of the first target frames of the pass if text follows them (`Traits.text_level`); else,
    and where the pass has none, 0.
    """
    clip = inputs.clip
    if not backbone.traits.text_follows or clip is None or not clip.targets:
        return CLEAN
    level = clip.level_of(clip.targets[0])
    return level if isinstance(level, Tensor) else level[0]


def all_streams(videos: Mapping[str, Video]) -> list[Stream]:
    """The streams of all clips, in the order in which `velocities` expects their tokens."""
    return [stream for video in videos.values() for stream in video.streams]


def velocities(
    backbone: Backbone, videos: Mapping[str, Video], tokens: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The velocities of all clips; none if the backbone has none.

    `tokens` are those of `all_streams` behind the last layer, and then any others.
    """
    found: dict[str, Tensor] = {}
    left = iter(tokens)
    for name, video in videos.items():
        *_, x = [next(left) for _ in video.streams]
        if backbone.traits.imagines:
            found[name] = backbone.final_layer(x, video.modulation, video.clip)
    return found


def denoise(
    backbone: Backbone, frames: Frames, text: Text, sees: LayerVisibility | None = None
) -> Tensor:
    """The velocity [B, C, T, h, w] that a backbone alone predicts for `frames`.

    `sees` maps each role to the roles it attends to; by default all roles see each other, as in the
    backbone's own pretraining. Raises WamkitError if the backbone cannot imagine.
    """
    runner, inputs = PassRunner(), ModelInputs(text.without_caches(), frames)
    video = embed_videos(runner, backbone, inputs)["video"]
    if not backbone.traits.imagines:
        return backbone.final_layer(video.frames.tokens, None, video.clip)  # raises if it cannot
    tokens = pass_video(runner, backbone, video, sees)
    return backbone.final_layer(tokens, video.modulation, video.clip)


def pass_video(
    runner: PassRunner, backbone: Backbone, video: Video, sees: LayerVisibility | None = None
) -> Tensor:
    """The final tokens [B, S, D] of frames that pass the stack; all tokens attend to each other."""
    roles = {segment.role for stream in video.streams for segment in stream.segments}
    found, _ = runner.run(video.streams, sees or everyone(roles), attend=backbone.attend)
    return found[-1]


def _frame_sigmas(frames: Frames, reference: float) -> Sequence[tuple[Level | Tensor, int]]:
    """The level of each frame; clean frames that are given have that of references."""
    levels = frames.levels
    if isinstance(levels, Tensor):
        if reference:
            given = constant(frames.is_given, torch.bool, levels.device)
            levels = torch.where(given & (levels == 0), reference, levels)
        return [(levels, levels.shape[1])]
    return [
        (level_of(reference) if reference and given and not level.sigma else level, 1)
        for level, given in zip(levels, frames.is_given, strict=True)
    ]


def _views_apart(backbone: Backbone) -> tuple[bool, ...]:
    """Whether tokens of a view attend to no other view, for each layer."""
    stride = backbone.traits.cross_view_stride
    return tuple(layer % stride > 0 for layer in range(len(backbone.blocks)))


def _ends(backbone: Backbone) -> tuple[Ends, Ends]:
    return Ends(backbone.entry_modulation), Ends(backbone.final_modulation)


def _expect(backbone: Backbone, frames: Frames, text: Text) -> None:
    """Raise WamkitError for channels or conditioner tokens that are missing, or not wanted."""
    traits = backbone.traits
    found = 0 if frames.cond_latents is None else frames.cond_latents.shape[1]
    if found != traits.cond_channels:
        raise WamkitError(
            f"found {found} channels of conditioning latents; this backbone takes "
            f"{traits.cond_channels} with every frame",
            "give Frames(cond_latents=...) as [B, channels, T, h, w], or choose another variant",
        )
    width = 0 if text.cond_embeds is None else text.cond_embeds.shape[-1]
    if width != traits.cond_embeds_width:
        raise WamkitError(
            f"found cond_embeds of width {width}; this backbone takes width "
            f"{traits.cond_embeds_width} (0 is none)",
            "give Text(cond_embeds=...) as [B, tokens, width], or choose another variant",
        )

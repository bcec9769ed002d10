"""Hidden states: an action head that reads layers of the backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config.visibility import LayerVisibility, union
from ..engine.kv_cache import KVCache
from ..engine.levels import LevelTable, slice_levels
from ..engine.passes import PassRunner
from .action_head import ActionHead, cat_tokens, is_prefill
from .backbone import Backbone
from .streams import all_streams, embed_videos, velocities
from .types import MODALITIES, ModelInputs, ModelOutput, NoisyVectors, Text, TokenGroup, base


class ReaderHead(ActionHead):
    """Hidden states: the head reads layers of the backbone, which never attends to it.

    All methods are pure: the engine decides how often they run.
    """

    layers: tuple[int, ...]  # whose outputs are read, counted from 0
    reads_video_level: bool = False
    """Whether `embed_levels` reads the noise level of the frames; without, it is given 0."""

    def token_groups(self, inputs: ModelInputs) -> list[TokenGroup]:
        """The token groups to predict, and those that condition them."""
        return inputs.groups()

    def embed_text(self, text: Text) -> Any:
        """Embed the prompt for `encode_hidden`; once per prompt.

        `text.whole` holds the state too, where it is a text token: then once per chunk.
        """
        return None

    def encode_hidden(self, hidden: Sequence[Tensor], mask: Tensor | None, text: Any) -> Any:
        """Encode hidden states and prompt for `read`; once for as long as these are cached.

        Args:
            hidden: States [B, S, D] that the vectors may see, one tensor for each of `layers`.
            mask: [B, S] as `Text.mask`.
            text: What `embed_text` made.
        """
        return tuple(hidden), mask

    def embed_levels(self, sigmas: Tensor, video: Tensor) -> Any:
        """Embed noise levels for `read`: [R, ...], or None.

        Args:
            sigmas: Levels of vectors [R] float32.
            video: The highest noise level of the frames that are read [R] float32.
        """
        return None

    def encode_state(self, state: Tensor) -> Tensor:
        """Encode the state [B, 1, P] for its token group; once per chunk."""
        return state

    def embed_layout(self, groups: Sequence[TokenGroup], device: torch.device) -> Any:
        """Embed the positions of tokens for `read`."""
        return None

    @abstractmethod
    def read(
        self,
        inputs: ModelInputs,
        groups: Sequence[TokenGroup],
        memory: Any,
        levels: Any,
        layout: Any,
        call: Callable[..., Any],
    ) -> dict[str, Tensor]:
        """Velocities [B, N, A] by modality.

        Args:
            inputs: Inputs of the pass.
            groups: Those of `token_groups`.
            memory: What `encode_hidden` made.
            levels: Rows [B or 1, S or 1, ...] of `embed_levels`, for the tokens of the groups.
            layout: What `embed_layout` made.
            call: `call(function, *args)` runs a pure function of modules and tensors, compiled
                where the policy is.
        """

    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        inputs: ModelInputs,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> ModelOutput:
        """One pass; vectors that see the same roles are read together.

        Vectors see each other only within a chunk, since nothing is kept of them.
        """
        prefill = is_prefill(inputs, keep)
        videos, known = embed_videos(runner, backbone, inputs, cache), cache
        kept = KVCache([{} for _ in backbone.blocks])
        tokens: list[Tensor] = []
        if videos:
            tokens, passed = runner.run(
                all_streams(videos),
                sees,
                attend=backbone.attend,
                cache=cache,
                keep=keep,
                hidden=self.layers,
                prefill=prefill,
            )
            passed.levels = _frame_levels(inputs)
            kept = passed.without({r for x in passed.hidden for r in x if r not in keep})
            known = passed if cache is None else cache | passed
        if prefill:
            return ModelOutput(cache=kept)
        views = _views(inputs, union(sees))
        if views and known is None:
            raise ValueError("a reader needs a video or a cache to read from")
        found: dict[str, list[Tensor]] = {}
        for seen, view, own in views:
            assert known is not None
            read = self._read(runner, view, seen, known, cached=not videos)
            for part in own:
                found.setdefault(part, []).append(read[part])
        whole = {part: cat_tokens(pieces) for part, pieces in found.items()}
        return ModelOutput(**velocities(backbone, videos, tokens), **whole, cache=kept)

    def _read(
        self,
        runner: PassRunner,
        inputs: ModelInputs,
        seen: Collection[str],
        known: KVCache,
        *,
        cached: bool,
    ) -> dict[str, Tensor]:
        roles = tuple(role for role in known.hidden[self.layers[0]] if role in seen)

        def make() -> Any:
            hidden = [known.states(layer, roles) for layer in self.layers]
            text = runner.per_prompt(
                (self, "text"), inputs.text, lambda: self.embed_text(inputs.text)
            )
            return self.encode_hidden(hidden, _mask(roles, known, inputs), text)

        key = self, "memory", roles, id(inputs.text)
        memory = known.derive(key, lambda: (make(), inputs.text))[0] if cached else make()
        text = inputs.text
        groups = [self._with_state(group, inputs) for group in self.token_groups(inputs)]
        batch, device = text.tokens.shape[0], text.tokens.device
        levels = LevelTable.of([(g.level, len(g.roles)) for g in groups], batch, device)
        level = known.level(roles) if self.reads_video_level else 0.0
        rows = self._level_rows(runner, levels, level, batch)
        layout = tuple((g.modality, g.roles, g.times) for g in groups), device
        places = runner.get_or_compute(
            (self, "layout", layout), lambda: self.embed_layout(groups, device)
        )
        return self.read(inputs, groups, memory, rows, places, runner.call)

    def _with_state(self, group: TokenGroup, inputs: ModelInputs) -> TokenGroup:
        if group.modality != "state" or group.x is None:
            return group
        if torch.is_grad_enabled():
            return group._replace(x=self.encode_state(group.x))
        state = inputs.state if inputs.states is None else inputs.states.x
        key = self, "state", id(state)
        if key not in inputs.text.chunk_cache:
            inputs.text.chunk_cache[key] = state, self.encode_state(group.x)
        return group._replace(x=inputs.text.chunk_cache[key][1])

    def _level_rows(
        self, runner: PassRunner, levels: LevelTable, video: float | Tensor, batch: int
    ) -> Any:
        """What `embed_levels` makes of the levels of tokens and frames, for each token."""
        if isinstance(video, float):
            of = video
            return runner.level_rows(
                self, lambda s: self.embed_levels(s, torch.full_like(s, of)), levels, of
            )
        sigmas, index, key, _ = levels
        count = len(sigmas)
        if key is None:  # levels of samples in turn
            frames = video.repeat_interleave(count // batch)
        else:
            sigmas, frames = sigmas.repeat_interleave(batch), video.repeat(count)
            index = index * batch + torch.arange(batch, device=index.device)[:, None]
        table = LevelTable(sigmas, index, None)
        return runner.level_rows(self, lambda s: self.embed_levels(s, frames), table)


def _frame_levels(inputs: ModelInputs) -> dict[str, float | Tensor]:
    """role -> the highest noise level of its frames, [B] where samples differ."""
    found: dict[str, float | Tensor] = {}
    for clip in (inputs.video, inputs.future):
        for role in dict.fromkeys(clip.roles if clip is not None else ()):
            assert clip is not None
            levels = clip.only(role).levels
            if isinstance(levels, Tensor):
                found[role] = levels.amax(1)
            else:
                found[role] = max(level.sigma for level in levels)
    return found


def _views(
    inputs: ModelInputs, sees: Mapping[str, Collection[str]]
) -> list[tuple[frozenset[str], ModelInputs, list[str]]]:
    """Group the vectors of the inputs: one view for those that see the same roles.

    The roles that are seen, the inputs with the states and the vectors of the same chunk that are
    among them, and the modalities whose velocities this view is there for.
    """
    vectors = {part: v for part in MODALITIES[1:] if (v := getattr(inputs, part)) is not None}
    roles = {part: v.roles or (part,) * v.x.shape[1] for part, v in vectors.items()}
    views: dict[tuple[frozenset[str], str], list[str]] = {}
    for part, names in roles.items():
        for role in dict.fromkeys(names):
            key = frozenset(sees[role]), role.removeprefix(base(role))
            views.setdefault(key, []).append(part)
    found = []
    for (seen, chunk), own in views.items():
        visible = {
            part: _steps(v, roles[part], chunk) if part in own or part + chunk in seen else None
            for part, v in vectors.items()
        }
        states = None if inputs.states is None else inputs.states.only(seen)
        found.append((seen, inputs.with_(states=states, **visible), own))
    return found


def _steps(vectors: NoisyVectors, roles: Sequence[str], chunk: str) -> NoisyVectors | None:
    """The steps of one chunk, if there are any; they follow each other."""
    at = [i for i, role in enumerate(roles) if role.removeprefix(base(role)) == chunk]
    if not at or len(at) == len(roles):
        return vectors if at else None
    span = slice(at[0], at[-1] + 1)
    level = slice_levels(vectors.level, span)
    return NoisyVectors(vectors.x[:, span], level, vectors.roles[span], vectors.places()[span])


def _mask(roles: Sequence[str], known: KVCache, inputs: ModelInputs) -> Tensor | None:
    """Which of the hidden states [B, S, D] of `roles` are real: only text can be padding."""
    mask = inputs.text.whole.mask
    if "text" not in roles or mask is None:
        return None
    real = mask.new_zeros if mask.is_floating_point() else mask.new_ones
    lengths = [next(x[role].shape[1] for x in known.hidden if x) for role in roles]
    parts = [
        mask if role == "text" else real(mask.shape[0], length)
        for role, length in zip(roles, lengths, strict=True)
    ]
    return torch.cat(parts, 1)

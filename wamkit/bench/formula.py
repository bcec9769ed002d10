"""The work of a policy's passes by closed formulas, beside which that of its kernels is counted.

What the two share is the specification alone: sizes come from configurations (`Traits`,
`ActionHeadConfig.operations`), tokens from the scene, and who sees whom from the paradigm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from ..cache import KVCache
from ..interfaces.action_head import is_prefill
from ..spec import PolicySpec
from ..types import PARTS, Frames, Scene
from ..visibility import Visibility
from ..work import Pass, ends_of, layer_of


def on_paper(
    spec: PolicySpec,
    sees: Visibility,
    scene: Scene,
    cache: KVCache | None = None,
    keep: Collection[str] = (),
) -> Pass:
    """A pass of the network as its formula wants it, from what the model was called with."""
    traits, head = spec.backbone.traits, spec.action_head
    known = {} if cache is None else _known(cache)
    words = scene.text.tokens.shape[1] + (head.state_is_word and scene.state is not None)
    frames: Counter[str] = Counter()
    for clip in (scene.video, scene.future):
        if clip is not None:
            frames.update(_tokens(spec, clip))
    numbers = _numbers(spec, scene, known)
    if frames and traits.text == "stream" and "text" not in known:
        frames["text"] = words
    if numbers and head.shares_blocks and head.reads_text and "text" not in known:
        numbers["text"] = words
    if "context" in frames and (beside := head.tokens(spec.sizes).get("context", 0)):
        numbers["context"] = beside
    return Pass(frames, numbers, known, sees, words, _samples(scene), is_prefill(scene, keep))


def by_formula(spec: PolicySpec, passes: Sequence[Pass]) -> list[float] | None:
    """Operations of each pass of one chunk, in their order; None if a part gives no formula."""
    traits, head = spec.backbone.traits, spec.action_head
    layer, sizes = layer_of(traits), spec.sizes
    cut = traits.depth - 1 not in head.layers_read(traits)
    found = []
    for given, told, read in _first(spec, passes):
        inside = dict(Counter(given.frames))
        if head.shares_blocks:
            inside = dict(Counter(inside) + Counter(given.numbers))
        each = layer.all(inside, replace(given, new_words=told.new_words))
        total = float(traits.depth * each)
        if given.prefill and cut:
            total -= each - sum(inside.values()) * layer.showing
        patches = sum(count for role, count in given.frames.items() if role != "text")
        total += patches * ends_of(traits, prefill=given.prefill)
        own = head.operations(sizes, read)
        if own is None:
            return None
        found.append(given.samples * (total + own))
    return found


def _first(spec: PolicySpec, passes: Sequence[Pass]) -> Iterator[tuple[Pass, Pass, Pass]]:
    """Every pass; as the backbone's blocks find it, and as the head does: what is new to each."""
    word = bool(spec.state.size) and spec.action_head.state_is_word
    told: set[tuple[str, int]] = set()
    changed = True
    for given in passes:
        own = bool(given.numbers) and not given.prefill
        backbone = bool(given.frames) or (own and spec.action_head.shares_blocks)
        changed |= bool(given.frames)
        news = []
        for who, present in (("backbone", backbone), ("head", own)):
            key = who, given.samples
            news.append(word and present and key not in told)
            if present:
                told.add(key)
        yield (
            given,
            replace(given, new_words=news[0]),
            replace(given, new_words=news[1], new_frames=changed and own),
        )
        changed &= not own


def _known(cache: KVCache) -> dict[str, int]:
    """role -> tokens that are kept of it: keys, or hidden states where those are."""
    found: dict[str, int] = {}
    for layer in cache.layers:
        found.update({role: kv.k.shape[2] for role, kv in layer.items()})
    for hidden in cache.hidden:
        found.update({role: x.shape[1] for role, x in hidden.items()})
    return found


def _tokens(spec: PolicySpec, clip: Frames) -> dict[str, int]:
    """role -> tokens of the frames of a clip."""
    height, width = clip.z.shape[3:]
    traits = spec.backbone.traits
    return {
        role: traits.tokens(count, height, width) for role, count in Counter(clip.roles).items()
    }


def _numbers(spec: PolicySpec, scene: Scene, known: Collection[str]) -> dict[str, int]:
    """role -> tokens of the head for the numbers of a scene; 0 where it has none for them."""
    tokens, found = spec.action_head.tokens(spec.sizes), {}
    if scene.state is not None and "state" in tokens and "state" not in known:
        found["state"] = tokens["state"]
    for part in PARTS[1:]:
        noisy = getattr(scene, part)
        if noisy is None:
            continue
        steps = spec.actions.chunk if part == "action" else 1
        roles = Counter(noisy.roles or (part,) * noisy.x.shape[1])
        for role, count in roles.items():
            found[role] = tokens.get(part, 0) * max(1, count // steps)
    return found


def _samples(scene: Scene) -> int:
    """The size of the batch."""
    parts = [scene.video, scene.future, *(getattr(scene, part) for part in PARTS[1:])]
    first = next(part for part in parts if part is not None)
    return int((first.z if isinstance(first, Frames) else first.x).shape[0])

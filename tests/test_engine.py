"""The engine: roles instead of masks, caches that change nothing, three ways for a head to join."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wamkit.config.parts import Sizes
from wamkit.config.registry import registry
from wamkit.config.visibility import closed_part
from wamkit.engine.attention import QKV, Stream, run, sdpa
from wamkit.engine.kv_cache import KV, KVCache
from wamkit.errors import WamkitError
from wamkit.interfaces import ActionHead, ReaderHead, SlotHead, stream_of
from wamkit.interfaces.types import Frames, Noisy, Scene, Segment, Text
from wamkit.testing.fixtures import compose, run_dense
from wamkit.testing.parity import float64, same_values

SPECS = {name: compose(cls()) for name, cls in registry().parts["backbone"].items()}
SEES = {
    "action sees the present": {
        "text": {"text", "context"},
        "context": {"text", "context"},
        "target": {"text", "context", "target"},
        "state": {"state"},
        "action": {"text", "context", "state", "action"},
    },
    "action sees the future": {
        "text": {"text", "context"},
        "context": {"text", "context"},
        "target": {"text", "context", "target"},
        "state": {"state"},
        "action": {"text", "context", "state", "target", "action"},
    },
    "mutual": {
        "text": {"text", "context"},
        "context": {"text", "context"},
        "target": {"text", "context", "target", "action"},
        "state": {"state"},
        "action": {"text", "context", "state", "target", "action"},
    },
}


class Reader(ReaderHead):
    """The smallest reader: attends to the hidden states of two layers."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layers = (0, sizes.traits.depth - 1)
        self.enter = nn.Linear(sizes.action, sizes.traits.width)
        self.leave = nn.Linear(sizes.traits.width, sizes.action)

    def read(
        self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None, level: Tensor
    ) -> dict[str, Tensor]:
        action = scene.noisy("action")
        x = self.enter(action.x) + action.sigma[:, None, None]
        for states in hidden:
            x = x + sdpa(x[:, None], states[:, None], states[:, None], valid)[:, 0]
        return {"action": self.leave(x)}


class Slots(SlotHead):
    """The smallest slot head: actions repeated over one latent frame, and averaged back."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.gain = nn.Parameter(torch.ones(()))

    def slots(self, scene: Scene, known: Collection[str]) -> dict[str, Frames]:
        if scene.action is None:
            return {}
        c, h, w = self.sizes.latent
        flat = scene.action.x.flatten(1)
        copies = -(-c * h * w // flat.shape[1])
        z = flat.repeat(1, copies)[:, : c * h * w].unflatten(1, (c, 1, h, w)) * self.gain
        return {"action": Frames(z, ("action",), torch.tensor([9.0]), scene.action.levels)}

    def unslot(self, part: str, v: Tensor, noisy: Noisy) -> Tensor:
        n = noisy.x[0].numel()
        flat = v.flatten(1)
        whole = flat[:, : flat.shape[1] // n * n].unflatten(1, (-1, n)).mean(1)
        return whole.view_as(noisy.x) * self.gain


def _head(kind: str, backbone: str) -> ActionHead:
    spec = SPECS[backbone]
    sizes = spec.sizes.model_copy(update={"predicts": ("action",)})
    if kind == "small reader":
        return Reader(sizes)
    if kind == "slots":
        return Slots(sizes)
    head: ActionHead = registry().parts["action_head"][kind]().tiny().fit(spec).build(sizes)
    return head


HEADS = [*registry().names("action_head"), "small reader", "slots"]
# What cannot imagine has no velocity that actions in slots could be read from.
PAIRS = [
    (name, kind)
    for name, kind in product(SPECS, HEADS)
    if SPECS[name].backbone.traits.imagines or not isinstance(_head(kind, name), SlotHead)
]


def _scene(backbone: str, frames: int = 3) -> Scene:
    spec = SPECS[backbone]
    rng = torch.Generator().manual_seed(4)
    traits = spec.backbone.traits
    z = torch.randn(2, traits.latent_channels, frames, *spec.latent_size, generator=rng)
    sigma = torch.full((2, frames), 0.6)
    sigma[:, 0] = 0
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, 5:] = False
    roles = ("context",) + ("target",) * (frames - 1)
    wide = traits.extra_width
    extra = torch.randn(2, 1, wide, generator=rng) if wide else None
    return Scene(
        text=Text(torch.randn(2, 7, traits.text_width, generator=rng), valid, extra),
        video=Frames(z, roles, torch.arange(frames).float(), sigma),
        action=Noisy(torch.randn(2, 6, 4, generator=rng), torch.tensor([0.3, 0.9])),
        state=torch.randn(2, 3, generator=rng),
    )


def _lifted(scene: Scene, head: ActionHead) -> Scene:
    """The scene with its action as the head wants noise added to it."""
    action = scene.noisy("action")
    return scene.with_(action=Noisy(head.lift("action", action.x), action.sigma))


@pytest.mark.parametrize("rule", SEES)
@pytest.mark.parametrize(("backbone", "kind"), PAIRS)
def test_every_way_to_join_predicts_both_and_passes_gradients(
    backbone: str, kind: str, rule: str
) -> None:
    torch.manual_seed(0)
    model, head = SPECS[backbone].backbone.build(), _head(kind, backbone)
    scene = _lifted(_scene(backbone), head)
    out = head.join(model, scene, SEES[rule])
    assert out.action is not None and scene.video is not None
    assert head.lower("action", out.action).shape == (2, 6, 4)
    loss = out.action.square().mean()
    assert (out.video is not None) == model.traits.imagines
    if out.video is not None:
        assert out.video.shape == scene.video.z.shape
        loss = loss + out.video.square().mean()
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())


@pytest.mark.parametrize(("backbone", "kind"), PAIRS)
@torch.no_grad()
@float64()
def test_remembering_the_context_changes_nothing(backbone: str, kind: str) -> None:
    torch.manual_seed(0)
    sees = SEES["action sees the present"]
    model, head = SPECS[backbone].backbone.build(), _head(kind, backbone)
    scene = _lifted(_scene(backbone), head)
    assert scene.video is not None and scene.action is not None
    assert closed_part({"text", "context"}, sees, sees) == {"text", "context"}
    full = head.join(model, scene, sees).action
    seen = scene.with_(video=scene.video.only("context"), action=None)
    prefill = head.join(model, seen, sees, keep=("text", "context"))
    assert prefill.video is None and prefill.action is None
    for _ in range(3):
        fast = head.join(model, scene.with_(video=None), sees, cache=prefill.cache).action
        same_values(fast, full)


@pytest.mark.parametrize(("backbone", "rule"), list(product(SPECS, SEES)))
@float64()
def test_two_streams_attend_as_under_a_dense_mask(backbone: str, rule: str) -> None:
    torch.manual_seed(0)
    model, head, scene = SPECS[backbone].backbone.build(), _head("mot", backbone), _scene(backbone)

    def streams() -> list[Stream]:
        ready = head.prepare(scene)
        assert ready.video is not None and ready.action is not None
        video = stream_of(model, ready.video, ready.text)
        action = head.stream(model, ready, ())  # type: ignore[attr-defined]
        return [video, action]

    one, two = streams(), streams()
    run(one, SEES[rule])
    run_dense(two, SEES[rule])
    for a, b in zip(one, two, strict=True):
        same_values(a.x, b.x)


@float64()
def test_a_cached_step_reuses_its_buffer_and_rewrites_only_the_end() -> None:
    cached = KV(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4))
    cache = KVCache([{"context": cached}])
    kept, heard = cached.k.clone(), []

    def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        heard.append((k.data_ptr(), k.clone()))
        return sdpa(q, k, v, valid)

    sees = {"context": {"context"}, "action": {"context", "action"}}
    passed = []
    with torch.no_grad():
        for x in (torch.randn(1, 2, 8), torch.randn(1, 2, 8)):
            block = Bare()
            passed.append(block.project(x, None)[0].k)
            stream = Stream([block], x, (Segment("action", 2),), None)
            run([stream], sees, attend=attend, cache=cache)
    (where, one), (again, two) = heard
    assert where == again
    same_values(one, torch.cat([kept, passed[0]], 2))
    same_values(two, torch.cat([kept, passed[1]], 2))
    assert torch.equal(cache.layers[0]["context"].k, kept)


class Bare:
    """A block of two heads without weights."""

    def project(self, x: Tensor, cond: Any) -> tuple[QKV, Any]:
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return QKV(heads, 2 * heads, 3 * heads), x

    def absorb(self, attended: Tensor, rest: Any, cond: Any) -> Tensor:
        return attended + rest


def test_a_cache_takes_in_a_newer_one() -> None:
    def kv(n: float) -> KV:
        return KV(torch.full((1, 1, 1, 1), n), torch.full((1, 1, 1, 1), n))

    both = KVCache([{"context": kv(1), "target": kv(1)}]) | KVCache([{"target": kv(2)}])
    assert both.roles == {"context", "target"}
    assert both.layers[0]["target"].k.item() == 2 and both.layers[0]["context"].k.item() == 1


def test_a_role_without_a_row_is_refused() -> None:
    stream = Stream([], torch.zeros(1, 1, 1), (Segment("value", 1),), None)
    with pytest.raises(WamkitError) as error:
        run([stream], {"context": {"context"}})
    assert str(error.value) == (
        "the visibility table has no row for value; it speaks of context\n"
        "  hint: add a row for it to the paradigm's `sees`"
    )


def test_what_is_cacheable_follows_from_the_table() -> None:
    alone = SEES["action sees the present"]
    future = SEES["action sees the future"]
    video = {"text", "context", "target"}
    assert closed_part({"text", "context"}, alone, alone) == {"text", "context"}
    assert closed_part({"target"}, alone, alone) == set()
    assert closed_part(video, future, future) == video
    assert closed_part(video, SEES["mutual"], SEES["mutual"]) < video
    assert closed_part({"context"}, alone, {"context", "target"}) == {"context"}
    everything = {"context", "target", "action"}
    assert closed_part(everything - {"action"}, SEES["mutual"], everything) == {"context"}


def test_frames_keep_their_roles_times_and_levels_together() -> None:
    scene = _scene("toy")
    assert scene.video is not None
    video = scene.video
    assert [s.role for s in video.segments(4)] == ["context", "target"]
    assert [s.length for s in video.segments(4)] == [4, 8]
    future = video.only("target")
    assert future.times.tolist() == [1, 2] and future.roles == ("target", "target")
    assert video.at(0.1, "target").sigma[0].tolist() == pytest.approx([0, 0.1, 0.1])
    new = torch.ones_like(future.z)
    assert torch.equal(video.put(new, "target").z[:, :, 1:], new)
    assert torch.equal(video.put(new, "target").z[:, :, :1], video.z[:, :, :1])
    with pytest.raises(ValueError, match=r"sigma must be \[2, 3\], found \(2, 2\)"):
        Frames(video.z, video.roles, video.times, video.sigma[:, :2])

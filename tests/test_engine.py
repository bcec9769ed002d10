"""The engine: roles instead of masks, caches that change nothing, three ways for a head to join."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wamkit.config.parts import HeadContext
from wamkit.config.registry import registry
from wamkit.config.visibility import cacheable_subset, causal
from wamkit.engine.attention import QKV, Segment, Stream, attention
from wamkit.engine.conditioning import ModulationTable
from wamkit.engine.kv_cache import KV, KVCache
from wamkit.engine.passes import PassRunner
from wamkit.errors import WamkitError
from wamkit.interfaces import ActionHead, ReaderHead, SlotHead
from wamkit.interfaces.types import Frames, ModelInputs, NoisyVectors, Text, TokenGroup, counted
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

    def __init__(self, sizes: HeadContext) -> None:
        super().__init__()
        self.layers = (0, sizes.traits.depth - 1)
        self.enter = nn.Linear(sizes.action, sizes.traits.width)
        self.leave = nn.Linear(sizes.traits.width, sizes.action)

    def read(
        self,
        inputs: ModelInputs,
        groups: Sequence[TokenGroup],
        memory: Any,
        levels: Any,
        layout: Any,
        call: Any,
    ) -> dict[str, Tensor]:
        action, (hidden, mask) = inputs.noisy("action"), memory
        x = self.enter(action.x) + action.sigma[..., None]
        for states in hidden:
            x = x + attention(x[:, None], states[:, None], states[:, None], mask)[:, 0]
        return {"action": self.leave(x)}


class Slots(SlotHead):
    """The smallest slot head: actions repeated over one latent frame, and averaged back."""

    def __init__(self, sizes: HeadContext) -> None:
        super().__init__()
        self.sizes = sizes
        self.gain = nn.Parameter(torch.ones(()))

    def slots(self, inputs: ModelInputs, known: Collection[str]) -> dict[str, Frames]:
        if inputs.action is None:
            return {}
        c, h, w = self.sizes.latent
        flat = inputs.action.x.flatten(1)
        copies = -(-c * h * w // flat.shape[1])
        z = flat.repeat(1, copies)[:, : c * h * w].unflatten(1, (c, 1, h, w)) * self.gain
        return {"action": Frames(z, ("action",), (9.0,), inputs.action.sigma)}

    def decode_slot(self, modality: str, v: Tensor, noisy: NoisyVectors) -> Tensor:
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
    head: ActionHead = registry().parts["action_head"][kind]().tiny().resolve(spec).build(sizes)
    return head


HEADS = [*registry().names("action_head"), "small reader", "slots"]
# What cannot imagine has no velocity that actions in slots could be read from.
PAIRS = [
    (name, kind)
    for name, kind in product(SPECS, HEADS)
    if SPECS[name].backbone.traits.imagines or not isinstance(_head(kind, name), SlotHead)
]


def _inputs(backbone: str, frames: int = 3) -> ModelInputs:
    spec = SPECS[backbone]
    rng = torch.Generator().manual_seed(4)
    traits = spec.backbone.traits
    z = torch.randn(2, traits.latent_channels, frames, *spec.latent_size, generator=rng)
    sigma = torch.full((2, frames), 0.6)
    sigma[:, 0] = 0
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, 5:] = False
    roles = ("context",) + ("target",) * (frames - 1)
    wide = traits.cond_embeds_width
    cond_embeds = torch.randn(2, 1, wide, generator=rng) if wide else None
    return ModelInputs(
        text=Text(torch.randn(2, 7, traits.text_width, generator=rng), valid, cond_embeds),
        video=Frames(z, roles, counted(frames), sigma),
        action=NoisyVectors(torch.randn(2, 6, 4, generator=rng), torch.tensor([0.3, 0.9])),
        state=torch.randn(2, 3, generator=rng),
    )


def _lifted(inputs: ModelInputs, head: ActionHead) -> ModelInputs:
    """The inputs with their action in the form to which the head adds noise."""
    action = inputs.noisy("action")
    latent = NoisyVectors(head.to_latent("action", action.x), action.level)
    return head.prepare(inputs.with_(action=latent))


@pytest.mark.parametrize("rule", SEES)
@pytest.mark.parametrize(("backbone", "kind"), PAIRS)
def test_every_way_to_join_predicts_both_and_passes_gradients(
    backbone: str, kind: str, rule: str
) -> None:
    torch.manual_seed(0)
    model, head = SPECS[backbone].backbone.build(), _head(kind, backbone)
    inputs = _lifted(_inputs(backbone), head)
    out = head.join(PassRunner(), model, inputs, SEES[rule])
    assert out.action is not None and inputs.video is not None
    assert head.from_latent("action", out.action).shape == (2, 6, 4)
    loss = out.action.square().mean()
    assert (out.video is not None) == model.traits.imagines
    if out.video is not None:
        assert out.video.shape == inputs.video.z.shape
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
    inputs = _lifted(_inputs(backbone), head)
    assert inputs.video is not None and inputs.action is not None
    full = head.join(PassRunner(), model, inputs, sees).action
    seen = inputs.with_(video=inputs.video.only("context"), action=None)
    prefill = head.join(PassRunner(), model, seen, sees, keep=("text", "context"))
    assert prefill.video is None and prefill.action is None
    runner = PassRunner()
    for _ in range(3):
        rest = inputs.with_(video=None)
        fast = head.join(runner, model, rest, sees, cache=prefill.cache).action
        same_values(fast, full)


@pytest.mark.parametrize(("backbone", "rule"), list(product(SPECS, SEES)))
@torch.no_grad()
@float64()
def test_streams_attend_as_under_a_dense_mask(backbone: str, rule: str) -> None:
    torch.manual_seed(0)
    model, head, inputs = (
        SPECS[backbone].backbone.build(),
        _head("mot", backbone),
        _inputs(backbone),
    )
    ready, streams = head.prepare(inputs), []

    class Seen(PassRunner):
        def run(self, given: Any, *args: Any, **kwargs: Any) -> Any:
            streams.extend(given)
            return super().run(given, *args, **kwargs)

    head.join(Seen(), model, ready, SEES[rule])
    found, _ = PassRunner().run(streams, SEES[rule])
    same_values(found, run_dense(streams, SEES[rule]))


def bare(x: Tensor, role: str = "action") -> Stream:
    """Tokens of one segment on their way through one block without weights."""
    levels = ModulationTable((), (None,))
    index = torch.zeros(1, 1, dtype=torch.long)
    return Stream((Bare(),), x, (Segment(role, x.shape[1]),), index, levels)


@float64()
def test_a_cached_step_reuses_its_buffer_and_rewrites_only_the_end() -> None:
    cached = KV(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4))
    cache = KVCache([{"context": cached}])
    kept, seen = cached.k.clone(), []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        seen.append((k.data_ptr(), k.clone()))
        return attention(q, k, v, mask)

    sees = {"context": {"context"}, "action": {"context", "action"}}
    passed = []
    with torch.no_grad():
        for x in (torch.randn(1, 2, 8), torch.randn(1, 2, 8)):
            passed.append(Bare().pre_attention(x, None, None)[0].k)
            PassRunner().run([bare(x)], sees, attend=attend, cache=cache)
    (where, one), (again, two) = seen
    assert where == again
    same_values(one, torch.cat([kept, passed[0]], 2))
    same_values(two, torch.cat([kept, passed[1]], 2))
    assert torch.equal(cache.layers[0]["context"].k, kept)


class Bare:
    """A block of two heads without weights."""

    def modulation(self, sigma: Any) -> None:
        return None

    def text_kv(self, text: Any) -> None:
        return None

    def pre_attention(self, x: Tensor, modulation: Any, rotary: Any) -> tuple[QKV, Any]:
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return QKV(heads, 2 * heads, 3 * heads), (x,)

    def post_attention(self, attended: Tensor, carry: Any, modulation: Any, text: Any) -> Tensor:
        return attended + carry[0]


def test_a_causal_role_sees_others_and_itself_up_to_each_token() -> None:
    x, text = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    sees = {"context": {"context"}, "text": causal("text", "context")}
    streams = [bare(x, "context"), bare(text, "text")]
    _, found = PassRunner().run(streams, sees)[0]
    keys = torch.cat([x, text], 1)
    (q, *_), _ = Bare().pre_attention(text, None, None)
    (_, k, v), _ = Bare().pre_attention(keys, None, None)
    mask = torch.ones(3, 8, dtype=torch.bool).tril(5)
    heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    same_values(found, text + heads.transpose(1, 2).flatten(2))
    alone = PassRunner().run([bare(text, "text")], sees)[0][0]
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    heads = torch.nn.functional.scaled_dot_product_attention(
        q, k[:, :, 5:], v[:, :, 5:], attn_mask=mask
    )
    same_values(alone, text + heads.transpose(1, 2).flatten(2))


def test_a_cache_takes_in_a_newer_one() -> None:
    def kv(n: float) -> KV:
        return KV(torch.full((1, 1, 1, 1), n), torch.full((1, 1, 1, 1), n))

    both = KVCache([{"context": kv(1), "target": kv(1)}]) | KVCache([{"target": kv(2)}])
    assert both.roles == {"context", "target"}
    assert both.layers[0]["target"].k.item() == 2 and both.layers[0]["context"].k.item() == 1


def test_a_role_without_a_row_is_refused() -> None:
    with pytest.raises(WamkitError) as error:
        PassRunner().run([bare(torch.zeros(1, 1, 8), "value")], {"context": {"context"}})
    assert str(error.value) == (
        "the visibility table has no row for value; it speaks of context\n"
        "  hint: add a row for it to the paradigm's `sees`"
    )


def test_what_can_be_cached_follows_from_the_table() -> None:
    everything = {"text", "context", "target", "action"}

    def kept(rule: str, *roles: str) -> frozenset[str]:
        return cacheable_subset(roles, SEES[rule], everything)

    assert kept("action sees the present", "text", "context") == {"text", "context"}
    assert kept("action sees the present", "target") == frozenset()
    three = "text", "context", "target"
    assert kept("action sees the future", *three) == set(three)
    assert kept("mutual", *three) == {"text", "context"}
    by_layer = [(range(2), SEES["action sees the future"]), (range(2, 9), SEES["mutual"])]
    assert cacheable_subset(three, by_layer, everything) == {"text", "context"}


def test_frames_keep_their_roles_times_and_levels_together() -> None:
    inputs = _inputs("toy")
    assert inputs.video is not None
    video = inputs.video
    assert [s.role for s in video.segments(4)] == ["context", "target"]
    assert [s.length for s in video.segments(4)] == [4, 8]
    future = video.only("target")
    assert future.times == (1, 2) and future.roles == ("target", "target")
    assert video.at(0.1, "target").sigma[0].tolist() == pytest.approx([0, 0.1, 0.1])
    new = torch.ones_like(future.z)
    assert torch.equal(video.put(new, "target").z[:, :, 1:], new)
    assert torch.equal(video.put(new, "target").z[:, :, :1], video.z[:, :, :1])
    with pytest.raises(ValueError, match=r"levels must be \[2, 3\], found \(2, 2\)"):
        Frames(video.z, video.roles, video.times, video.sigma[:, :2])

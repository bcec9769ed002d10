"""How often each function of a network runs: conditioning that is kept, and passes that use it.

once per prompt    text embedding, keys and values of cross-attention
once per schedule  modulation of all layers at all noise levels
once per layout    positions
once per cache     buffers, masks, and what readers make of hidden states
every step         gather, noisy tokens, blocks, final layer
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from operator import is_
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..config.visibility import LayerTables, LayerVisibility, freeze
from .attention import (
    Attend,
    Inside,
    PassResult,
    Stream,
    attention,
    run_live_pass,
    run_pass,
    run_whole_pass,
)
from .attention_plan import plan_pass
from .conditioning import (
    LiveModulation,
    ModulationTable,
    TextCond,
    TextKV,
    join_text_kv,
    live_rows,
    precompute_modulation,
    precompute_text_kv,
)
from .kv_cache import KVCache, bind_keys, collect_cache
from .levels import LevelTable
from .text import Text

Value = TypeVar("Value")

MAX_KEPT = 128
"""Tables and positions that are kept, the last ones used: those of a few schedules and layouts."""


class Ends(NamedTuple):
    """Functions of noise levels besides those of blocks, in the form that tables are made of."""

    modulation: Callable[[Any], Tensor | None]


class PassRunner:
    """Runs passes of a policy, and keeps what they have in common.

    Where gradients are on nothing is kept. Whoever changes weights calls `forget`.
    """

    def __init__(
        self, compile: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    ) -> None:
        self.compile = compile
        """Makes compiled code of a pure function; None to run as written."""
        self._functions: dict[Any, tuple[Any, Any]] = {}
        self.sharded = False
        """True if the weights of a block are there only while it runs (FSDP)."""
        self.regions = True
        """Whether equal layers of a compiled pass are compiled once; not with torchao's weights."""
        self.recompute = False
        """Activation checkpointing: layers run again in the backward pass."""
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._generation, self._structure = 0, None
        self._frozen: tuple[Any, LayerTables] = {}, freeze({})  # the last visibility

    def forget(self) -> None:
        """Keep nothing that was computed with weights that have changed."""
        self._kept.clear()

    def renew(
        self, generation: int, structure: Any = None, regions: Callable[[], bool] = lambda: True
    ) -> None:
        """Keep what is known only if weights are still those of this generation.

        Args:
            generation: Counts changes of weights.
            structure: Says which modules and weights there are, and their dtypes and shapes. If it
                is another one, passes are compiled anew.
            regions: Whether equal layers may be compiled once; asked when passes are.
        """
        if generation != self._generation:
            self.forget()
            self._generation = generation
        if structure != self._structure:
            self.recompile()
            self._structure, self.regions = structure, regions()

    def recompile(self) -> None:
        """Compile passes anew when they run next."""
        self._functions.clear()

    def kept(self) -> list[Any]:
        """What is kept, for who reads it where it lies."""
        return list(self._kept.values())

    def __reduce__(self) -> tuple[type[PassRunner], tuple[()]]:
        """A copy begins with nothing."""
        return PassRunner, ()

    @property
    def live(self) -> bool:
        """Whether blocks compute their own conditioning when they run."""
        return self.sharded or torch.is_grad_enabled()

    def get_or_compute(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """`make()`, or what it gave before for this key; anew with gradients.

        A key holds modules and plain values, which say all that the result depends on.
        """
        if self.live:
            return make()
        whole = key, torch.is_inference_mode_enabled(), autocast()
        if whole not in self._kept:
            self._kept[whole] = make()
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(whole)
        return self._kept[whole]  # type: ignore[no-any-return]

    def modulation(
        self,
        stack: Any,
        layers: Sequence[Any],
        kind: str,
        levels: LevelTable,
        pooled: Tensor | None = None,
        text: Text | None = None,
        embed_sigmas: Callable[[], Any] | None = None,
    ) -> tuple[ModulationTable | LiveModulation, Tensor]:
        """The modulation of layers at noise levels, and the index of each group of tokens.

        Args:
            stack: Whose `embed_sigma` makes the levels readable.
            layers: Blocks, or other things with a method `modulation`; None for none.
            kind: Tells the layers apart from others of the stack.
            levels: Of the tokens.
            pooled: The prompt's vector [B, width], where the stack reads it.
            text: The prompt it belongs to.
            embed_sigmas: Returns `stack.embed_sigma` of the levels alone, where others read it too;
                not used with a pooled vector or views.
        """
        sigmas, index, key, view = levels
        if pooled is not None and len(pooled) > 1:
            batch, count = len(pooled), len(sigmas)
            rows = torch.arange(batch, device=index.device)[:, None]
            if key is None:  # levels of samples in turn
                pooled = pooled.repeat_interleave(count // batch, 0)
            else:
                sigmas, pooled = sigmas.repeat_interleave(batch), pooled.repeat(count, 1)
                view = None if view is None else view.repeat_interleave(batch)
                index = index * batch + rows

        def embed() -> Any:
            if embed_sigmas is not None and pooled is None and view is None:
                return embed_sigmas()
            given = () if pooled is None else (pooled,)
            return stack.embed_sigma(sigmas, *given, **({} if view is None else {"view": view}))

        if self.live or key is None:
            cond = embed()
            return LiveModulation(cond) if self.live else self._table(layers, cond), index

        def once(what: str, make: Callable[[], Any]) -> Any:
            if text is None or pooled is None:
                return self.get_or_compute((stack, what, key, sigmas.device), make)
            return _once(text.prompt_cache, (stack, what, key, autocast()), make)

        return once(kind, lambda: self._table(layers, once("levels", embed))), index

    def _table(self, layers: Sequence[Any], cond: Any) -> ModulationTable:
        return precompute_modulation(layers, cond, separate=self.compile is not None)

    def rows(
        self, layers: Sequence[Any], table: ModulationTable | LiveModulation, index: Tensor
    ) -> list[Tensor | None]:
        """The modulation of each layer, for groups of tokens [B or 1, G, ...]."""
        if isinstance(table, LiveModulation):
            return [live_rows(layer, table.sigma, index) for layer in layers]
        return table.gather(index)

    def level_rows(
        self, owner: Any, make: Callable[[Tensor], Tensor | None], levels: LevelTable, *more: float
    ) -> Tensor | None:
        """What `make` says of noise levels [R], for groups of tokens [B or 1, G, ...].

        `owner` and `more` say what else the result depends on.
        """
        sigmas, index, key, _ = levels
        if self.live or key is None:
            table = make(sigmas)
        else:
            whole = owner, "levels", key, more, sigmas.device
            table = self.get_or_compute(whole, lambda: make(sigmas))
        if table is None:
            return None
        return table.index_select(0, index.flatten()).unflatten(0, index.shape)

    def call(self, function: Callable[..., Value], *args: Any) -> Value:
        """A pure function of modules and tensors, compiled where passes are.

        Its first argument is never another one for the same compiled code.
        """
        if self.compile is None or torch.is_grad_enabled():
            return function(*args)
        return self._code(function, args[0])(*args)  # type: ignore[no-any-return]

    def _code(self, function: Callable[..., Any], argument: Any) -> Any:
        """What a function is compiled to for this first argument, whose id it is found by."""
        key = function, id(argument)
        if key not in self._functions:
            assert self.compile is not None
            self._functions[key] = self.compile(function), argument
        return self._functions[key][0]

    def _repeated(self, steps: list[Any], run: Callable[..., PassResult], *args: Any) -> PassResult:
        """`call` of a pass that keeps nothing, for many steps with one cache.

        If a step has all but tokens and level indices of the one before, compiled code is called
        without looking at anything else. `steps` holds what that one had.
        """
        plan, inside, *_ = args
        code = self._code(run, plan)
        tensors = [x for s in inside for x in (s.tokens, s.level_index)]
        same = [code, torch.is_inference_mode_enabled(), autocast()]
        same += [x for s in inside for x in (*s.blocks, s.modulation, s.rotary, s.text_kv)]
        if steps and all(map(is_, steps[0], same)) and steps[1].fits(tensors):
            return PassResult(steps[1](tensors), [[] for _ in plan], [])
        result, again = code.repeatable(tensors, *args)
        steps[:] = [] if again is None else [same, again]
        return result  # type: ignore[no-any-return]

    def text(
        self, stack: Any, blocks: Sequence[Any], text: Text, kind: str = "blocks"
    ) -> tuple[TextCond | None, tuple[TextKV | None, ...] | None]:
        """A prompt for blocks that cross-attend to it: as they read it, or its keys and values."""
        if self.live:
            cond = stack.embed_text(text.whole)
            image = None if text.cond_embeds is None else stack.embed_image(text.cond_embeds)
            if image is not None:
                cond = TextCond(None, None, image) if cond is None else cond._replace(image=image)
            return cond, None
        tag = stack, kind, autocast()
        parts: list[Callable[[], tuple[TextKV | None, ...]]] = []
        if text.suffix is None or stack.text_is_per_token:
            prompt = text if text.suffix is None else _prompt_of(text)
            parts.append(
                lambda: _once(
                    text.prompt_cache,
                    ("text", tag),
                    lambda: precompute_text_kv(blocks, stack.embed_text(prompt)),
                )
            )
            if text.suffix is not None:
                suffix = Text(text.suffix)
                parts.append(lambda: precompute_text_kv(blocks, stack.embed_text(suffix)))
        else:
            parts.append(lambda: precompute_text_kv(blocks, stack.embed_text(text.whole)))
        if text.cond_embeds is not None:
            parts.append(lambda: self._image_kv(stack, blocks, text))
        if len(parts) == 1 and text.suffix is None:
            return None, parts[0]()
        return None, _once(
            text.chunk_cache, ("text", tag), lambda: join_text_kv([part() for part in parts])
        )

    def _image_kv(self, stack: Any, blocks: Sequence[Any], text: Text) -> tuple[TextKV | None, ...]:
        image = stack.embed_image(text.cond_embeds)
        return precompute_text_kv(blocks, None if image is None else TextCond(None, None, image))

    def text_tokens(self, stack: Any, text: Text) -> TextCond:
        """A prompt as tokens that enter a stream of their own."""
        return self.per_prompt(("tokens", stack), text, lambda: stack.embed_text(text.whole))

    def per_prompt(self, key: Hashable, text: Text, make: Callable[[], Value]) -> Value:
        """`make()` once for as long as `text` is the prompt; once per chunk with a suffix."""
        if self.live:
            return make()
        cache = text.prompt_cache if text.suffix is None else text.chunk_cache
        return _once(cache, (key, autocast()), make)

    def run(
        self,
        streams: Sequence[Stream],
        sees: LayerVisibility,
        *,
        attend: Attend = attention,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
        hidden: Collection[int] = (),
        prefill: bool = False,
    ) -> tuple[list[Tensor], KVCache]:
        """Advance all streams through all layers.

        Args:
            streams: At the entrance of stacks of one depth.
            sees: Who attends to whom.
            attend: The attention.
            cache: Roles of an earlier pass that may be attended to.
            keep: Roles whose keys and values are kept.
            hidden: Layers whose outputs are kept, by role.
            prefill: Only what is kept matters; the tokens returned are not to be used.

        Returns:
            The streams' final tokens, and what is kept.

        Raises:
            WamkitError: A role is present that the table has no row for.
        """
        shapes = tuple(tuple((s.name, s.length) for s in stream.segments) for stream in streams)
        active = tuple(tuple(block is not None for block in s.blocks) for s in streams)
        if self._frozen[0] is not sees:
            self._frozen = sees, freeze(sees)
        plan = plan_pass(
            shapes,
            active,
            self._frozen[1],
            () if cache is None else cache.names_by_layer,
            frozenset(keep),
            frozenset(hidden),
            prefill,
            next((s.views_apart for s in streams if s.views_apart), ()),
        )
        segments, like = [stream.segments for stream in streams], streams[0].tokens
        steps: list[Any] = []  # what passes with these keys have in common
        if cache is None:
            keys = bind_keys(plan, segments, None, like)
        else:
            masks = [s.mask for row in segments for s in row]
            key = id(plan), like.shape[0], like.dtype, *map(id, masks)
            held = cache.derive(
                key, lambda: (plan, masks, bind_keys(plan, segments, cache, like), [])
            )
            *_, keys, steps = held
        inside = tuple(Inside.of(stream) for stream in streams)
        if any(isinstance(stream.modulation, LiveModulation) for stream in streams):
            result = run_live_pass(plan, inside, keys, attend, recompute=self.recompute)
        else:
            run = run_pass if self.regions and self.compile is not None else run_whole_pass
            repeats = not (cache is None or keep or hidden or self.live or self.compile is None)
            call = partial(self._repeated, steps) if repeats else self.call
            result = call(run, plan, inside, keys, attend)
        layers = collect_cache(plan, segments, result.collected)
        states: list[dict[str, Tensor]] = []
        if hidden:
            found = iter(result.hidden)
            states = [_by_role(segments, next(found)) if step.hidden else {} for step in plan]
        return result.tokens, KVCache(layers, states)


def autocast() -> Any:
    """The dtype that autocast computes in, or None."""
    for kind in ("cuda", "cpu"):
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
    return None


def _once(cache: dict[Any, Any], key: Hashable, make: Callable[[], Value]) -> Value:
    if key not in cache:
        cache[key] = make()
    return cache[key]  # type: ignore[no-any-return]


def _prompt_of(text: Text) -> Text:
    """A text without its suffix."""
    return Text(text.tokens, text.valid, None, text.repeats)


def _by_role(segments: Sequence[Sequence[Any]], tokens: Sequence[Tensor]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for row, x in zip(segments, tokens, strict=True):
        parts = x.split([segment.length for segment in row], 1)
        for segment, part in zip(row, parts, strict=True):
            found.setdefault(segment.role, []).append(part)
    return {role: torch.cat(parts, 1) for role, parts in found.items()}

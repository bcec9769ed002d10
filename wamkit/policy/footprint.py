"""What acting takes: bytes of weights, KV cache and activations, and the work of every pass.

One chunk runs on the meta device, as in `wamkit.policy.cost`: every operation happens, no value is
computed. Attention is counted as fused kernels do it: no scores are stored.

Exact are bytes of weights in a dtype, and sizes of the KV cache and its buffers. Activations are
the tensors alive at the worst moment of eager mode; kernels' workspaces, CUDA's context and
fragments are not in them. Rounded weights have one byte an element and a float32 scale a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..acceleration.quantize import MIN_ELEMENTS, quantizable_layers
from ..config.spec import PolicySpec
from ..engine.kv_cache import KVCache
from ..engine.noise_schedule import schedules_of
from ..engine.passes import PassRunner
from ..interfaces.types import ModelInputs, ModelOutput
from .adapters import AdaptedBackbone
from .cost import (
    FORMULAS,
    conditioner_on_meta,
    encode_zeros,
    first_line,
    negative_text,
    network_on_meta,
    vae_on_meta,
    with_cfg_passes,
    zero_inputs,
)
from .live_bytes import LiveBytes
from .policy import DTYPES
from .repeated_passes import RepeatedPassCache


@dataclass(frozen=True)
class Work:
    """Of one call of the VAE or of the network, for one observation."""

    operations: int
    bytes: int
    """Read and written by products, attention and convolutions, each operand once."""
    weight_bytes: int
    """Those of them that are weights: read once, however large the batch is."""
    rounded_operations: int = 0
    """Of linear layers that `Policy.quantize` would round."""
    rounded_elements: int = 0
    """Elements of these layers' weights that are read."""


@dataclass(frozen=True)
class Footprint:
    """What acting takes in one dtype, for one observation."""

    dtype: str
    weights: dict[str, int]
    """part -> bytes."""
    rounded: dict[str, int]
    """part -> elements of weights that `Policy.quantize` would round."""
    rows: dict[str, int]
    """part -> rows of these weights, each of which gets a scale."""
    cache: int
    """Bytes of keys, values and hidden states that are kept, with the buffers made of them."""
    activations: int
    """Bytes of all else that is alive at the worst moment."""
    work: tuple[Work, ...]
    """The VAE's, then each pass's."""
    left_out: tuple[str, ...] = field(default=())
    """What is not counted, and why."""

    @property
    def passes(self) -> int:
        """Calls of the network in a chunk."""
        return len(self.work) - 1

    def quantized_weights(self) -> dict[str, int]:
        """part -> bytes, with weights in 8 bits where `Policy.quantize` rounds them."""
        saved = DTYPES[self.dtype].itemsize - 1
        return {
            kind: size - saved * self.rounded.get(kind, 0) + 4 * self.rows.get(kind, 0)
            for kind, size in self.weights.items()
        }


@torch.no_grad()
def footprint(spec: PolicySpec, min_elements: int = MIN_ELEMENTS, **act_options: Any) -> Footprint:
    """What acting takes at the sizes and in the dtype of `spec`; no weight is allocated.

    `act_options` are the paradigm's: one of its `variants`.
    """
    dtype, left_out = DTYPES[spec.dtype], list[str]()
    backbone, head, adapter = network_on_meta(spec)
    vae = vae_on_meta(spec)
    if isinstance(vae, str):
        left_out.append(f"vae: {vae}")
    parts = {"backbone": backbone, "vae": vae, "action_head": head, "latent_adapter": adapter}
    parts["text_encoder"] = _text_encoder(spec, left_out)
    parts["conditioner"] = conditioner_on_meta(spec, left_out)
    weights = {kind: tensor_bytes(_tensors(part)) for kind, part in parts.items()}
    rounded = {
        kind: [x.weight for x in quantizable_layers([parts[kind]], "int8", dtype, min_elements)]
        for kind in ("backbone", "action_head")
        if isinstance(parts[kind], nn.Module)
    }
    known = [x for part in parts.values() for x in _tensors(part)]
    meter = ActMeter(known, [x for found in rounded.values() for x in found])
    with fused_attention(meter):
        cache, alive = _run(spec, vae, backbone, head, adapter, meter, act_options)
    return Footprint(
        spec.dtype,
        {kind: size for kind, size in weights.items() if size},
        {kind: sum(w.numel() for w in found) for kind, found in rounded.items() if found},
        {kind: sum(w.shape[0] for w in found) for kind, found in rounded.items() if found},
        cache,
        max(0, alive - cache),
        tuple(meter.work),
        tuple(left_out),
    )


def _run(
    spec: PolicySpec,
    vae: Any,
    backbone: Any,
    head: Any,
    adapter: Any,
    meter: ActMeter,
    act_options: Mapping[str, Any],
) -> tuple[int, int]:
    """A chunk on the meta device; bytes of its largest KV cache, and of all that is alive."""
    with meter:
        encode_zeros(spec, vae, spec.video.num_observed)
    meter.close()
    if adapter is not None:
        backbone = AdaptedBackbone(backbone, adapter)
    paradigm, runner, most = spec.paradigm.build(), PassRunner(), 0
    inputs = head.prepare(zero_inputs(spec, head))

    def model(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        nonlocal most
        out: ModelOutput = head.join(runner, backbone, inputs, paradigm.sees, cache, keep)
        most = max(most, cache_bytes(cache, out.cache))
        meter.close()
        return out

    negative = negative_text(spec, head, inputs)

    def chunk(run: Any) -> None:
        fresh = inputs.with_(text=inputs.text.with_fresh_chunk_cache())
        with meter:
            ran = with_cfg_passes(spec, negative, run)
            paradigm.act(ran, fresh, schedules_of(spec), torch.Generator(), **act_options)

    chunk(model)  # every pass, for what is alive; it makes what is kept for a prompt
    alive = meter.most
    meter.forget_passes()
    chunk(RepeatedPassCache(model, meter.repeat))  # for the work of a chunk like all that follow
    return most, alive


class ActMeter(LiveBytes):
    """Counts what is alive, and the work of each pass, that of weights to be rounded apart."""

    def __init__(self, weights: Iterable[Tensor], rounded: Iterable[Tensor]) -> None:
        found = list(weights)
        super().__init__(found)
        self._weights = {_key(x) for x in found}
        self._rounded = {_key(x) for x in rounded}
        self.work: list[Work] = []
        self._ran: list[int] = []
        self._before, self._found = (0, 0), [0, 0, 0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = self.operations
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if getattr(func, "_overloadpacket", None) in FORMULAS:
            for x in tree_leaves((args, kwargs)):
                if isinstance(x, Tensor) and _key(x) in self._weights:
                    self._found[0] += x.numel() * x.element_size()
                    if _key(x) in self._rounded:
                        self._found[1] += self.operations - before
                        self._found[2] += x.numel()
        return out

    def close(self) -> None:
        """What was counted since the last call is a pass of its own."""
        operations, moved = self.operations - self._before[0], self.bytes - self._before[1]
        if self.work:
            self._ran.append(len(self.work))
        self.work.append(Work(operations, moved, *self._found))
        self._before, self._found = (self.operations, self.bytes), [0, 0, 0]

    def forget_passes(self) -> None:
        """Keep the work of the VAE alone."""
        self._ran.clear()
        del self.work[1:]

    def repeat(self, number: int) -> None:
        """A pass that is not run, since it is like the pass `number` of those that were."""
        self.work.append(self.work[self._ran[number]])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor) -> None:
        """Count attention as a fused kernel does it."""
        self.operations += 2 * prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        found = [x for x in (q, k, v, mask, out) if x is not None]
        self.bytes += sum(x.numel() * x.element_size() for x in found)


@contextmanager
def fused_attention(meter: ActMeter) -> Iterator[None]:
    """Within, attention is one operation that stores its output alone."""
    plain = F.scaled_dot_product_attention

    def attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        meter.attend(q, k, v, attn_mask, out)
        return out

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


def cache_bytes(*caches: KVCache | None) -> int:
    """Bytes of keys, values and hidden states of caches, and of buffers made of them."""
    tensors: list[Tensor] = []
    for cache in caches:
        if cache is not None:
            tensors += [x for layer in cache.layers for kv in layer.values() for x in kv[:2]]
            tensors += [x for layer in cache.hidden for x in layer.values()]
            tensors += [x for x in tree_leaves(cache.derived) if isinstance(x, Tensor)]
    return tensor_bytes(tensors)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each once."""
    return sum({_key(x): x.untyped_storage().nbytes() for x in tensors}.values())


def _tensors(part: Any) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else []


def _text_encoder(spec: PolicySpec, left_out: list[str]) -> Any:
    """The text encoder on the meta device; None if it is not loaded, or not to be counted."""
    config = spec.text_encoder
    if config.embeddings_file is not None:
        return None
    try:
        with torch.device("meta"):
            return config.skeleton()
    except Exception as problem:  # whatever a plugin's constructor does, the rest is counted
        left_out.append(f"text_encoder: not counted: {first_line(problem)}")
        return None


def _key(x: Tensor) -> int:
    return x.untyped_storage()._cdata

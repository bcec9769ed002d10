"""Cost of one chunk: passes, floating-point operations and bytes, counted without weights.

A policy is built on the meta device and acts there: every operation happens, no number is
computed. Operations are those of matrix products, attention and convolutions
(`torch.utils.flop_counter`: a multiplication and an addition are two); bytes are what these read
and write, each operand once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..checkpoints.safetensors import cast
from ..config.check import missing_files
from ..config.spec import PolicySpec
from ..engine.kv_cache import KVCache
from ..engine.noise_schedule import schedules_of
from ..engine.passes import PassRunner
from ..interfaces import ActionHead
from ..interfaces.paradigm import Model
from ..interfaces.types import ModelInputs, ModelOutput, Text
from . import meta_ops
from .adapters import AdaptedBackbone, LatentAdapter
from .clips import encode_canvas
from .guidance import with_cfg
from .policy import DTYPES
from .preprocessing import build_clips, build_inputs
from .repeated_passes import RepeatedPassCache


@dataclass
class Cost:
    """Of one observation to one action chunk, for a batch of one."""

    passes: int = 0
    """Calls of the network, a prefill included."""
    operations: int = 0
    bytes: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    """Operations of "encode" (the VAE), and of "act" (all passes)."""
    left_out: tuple[str, ...] = ()
    """Parts left out because they cannot be built on this machine, and why."""


_ATTENTION = "_scaled_dot_product_flash_attention"
FORMULAS = {
    **{  # of the CPU's attention, which older versions of torch do not count
        getattr(torch.ops.aten, f"{_ATTENTION}_for_cpu{way}"): flop_registry[
            getattr(torch.ops.aten, f"{_ATTENTION}{way}")
        ]
        for way in ("", "_backward")
    },
    **flop_registry,
    torch.ops.aten._int_mm: flop_registry[torch.ops.aten.mm],
}


class Counter(TorchDispatchMode):
    """Counts operations and bytes of everything that runs inside it."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        key = meta_ops.key_of(func, args, kwargs)
        out = meta_ops.run(func, args, kwargs, key)
        if key is None or key not in _SPENT:
            spent = _count_operation(func, args, kwargs, out)
            if key is None:
                self._add(spent)
                return out
            if len(_SPENT) >= meta_ops.LIMIT:
                _SPENT.clear()
            _SPENT[key] = spent
        self._add(_SPENT[key])
        return out

    def _add(self, spent: tuple[int, int]) -> None:
        self.operations += spent[0]
        self.bytes += spent[1]


_SPENT: dict[Any, tuple[int, int]] = {}


def _count_operation(func: Any, args: Any, kwargs: Mapping[str, Any], out: Any) -> tuple[int, int]:
    """Operations and bytes of one operation."""
    if func is torch.ops.higher_order.out_dtype:  # an operation, and the dtype of its result
        func, args = args[0], args[2:]
    packet = getattr(func, "_overloadpacket", None)
    if packet not in FORMULAS:
        return 0, 0
    tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
    moved = sum(x.numel() * x.element_size() for x in tensors)
    return int(FORMULAS[packet](*args, **kwargs, out_val=out)), moved


@torch.no_grad()
def cost(spec: PolicySpec, *, every_pass: bool = False, **act_options: Any) -> Cost:
    """Count the cost of a chunk at the sizes of `spec`; `act_options` are the paradigm's.

    The text encoder and the prompt cache (`Text.prompt_cache`) are left out: that
    runs once for a prompt, not for a chunk. Passes that repeat one before are counted as that one;
    `every_pass` runs them all the same, for tests.
    """
    vae, found = vae_on_meta(spec), Cost()
    if isinstance(vae, str):
        found.left_out = (f"vae: {vae}",)
    backbone, head, adapter = network_on_meta(spec)
    if adapter is not None:
        backbone = AdaptedBackbone(backbone, adapter)
    paradigm, runner = spec.paradigm.build(), PassRunner()
    encoded = count_encoding(spec, vae, spec.video.num_observed)
    found.stages["encode"], found.bytes = encoded.operations, encoded.bytes
    schedules, inputs, counter = (
        schedules_of(spec),
        head.prepare(zero_inputs(spec, head)),
        Counter(),
    )
    spent: list[tuple[int, int]] = []

    def model(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        found.passes += 1
        before = counter.operations, counter.bytes
        out = head.join(runner, backbone, inputs, paradigm.sees, cache, keep)
        spent.append((counter.operations - before[0], counter.bytes - before[1]))
        return out  # type: ignore[no-any-return]

    def on_repeat(number: int) -> None:
        found.passes += 1
        counter.operations += spent[number][0]
        counter.bytes += spent[number][1]

    negative = negative_text(spec, head, inputs)

    def chunk() -> None:
        again = inputs.with_(text=inputs.text.with_fresh_chunk_cache())
        ran = with_cfg_passes(
            spec, negative, model if every_pass else RepeatedPassCache(model, on_repeat)
        )
        paradigm.act(ran, again, schedules, torch.Generator(), **act_options)

    with Counter():
        chunk()  # fills the caches of prompt, schedule and layout
    found.passes = 0
    spent.clear()
    with counter:
        chunk()
    found.stages["act"] = counter.operations
    found.bytes += counter.bytes
    found.operations = sum(found.stages.values())
    return found


def negative_text(spec: PolicySpec, head: ActionHead, inputs: ModelInputs) -> Text | None:
    """A negative prompt of the same length as the inputs'; None without guidance."""
    if all(flow.config.guidance_scale == 1 for flow in schedules_of(spec).values()):
        return None
    text = inputs.text
    negative = Text(
        torch.zeros_like(text.tokens), cond_embeds=text.cond_embeds, follows=text.follows
    )
    return head.prepare(inputs.with_(text=negative)).text


def with_cfg_passes(spec: PolicySpec, negative: Text | None, model: Model) -> Model:
    """`model` with the guidance that the schedules ask for, if there is a negative prompt."""
    if negative is None:
        return model
    scales = {part: flow.config.guidance_scale for part, flow in schedules_of(spec).items()}
    return with_cfg(model, negative, scales)


def network_on_meta(spec: PolicySpec) -> tuple[Any, Any, LatentAdapter | None]:
    """Backbone and action head in the dtype of `spec`, and the adapter of latents if it has one."""
    with torch.device("meta"):
        backbone = without_weights(spec.backbone).build()
        head = without_weights(spec.action_head).build(spec.sizes)
        adapter = None
        if spec.vae.adapter == "linear":
            adapter = LatentAdapter(spec.vae.channels, spec.backbone.traits.latent_channels)
    for module in (backbone, head):
        cast(module, DTYPES[spec.dtype])
    return backbone, head, adapter


def vae_on_meta(spec: PolicySpec) -> Any:
    """Return the VAE on the meta device, or the reason why it cannot be built here."""
    if missing := missing_files(spec.vae):
        return f"not counted: {', '.join(missing)} is not installed"
    try:
        with torch.device("meta"):
            return without_weights(spec.vae).build()
    except ImportError as error:
        return f"not counted: {error}"


def conditioner_on_meta(spec: PolicySpec, left_out: list[str]) -> Any:
    """The conditioner of the backbone, in the dtype of `spec`; None without one.

    If it cannot be built here, the reason is added to `left_out`.
    """
    part = spec.backbone
    if not part.traits.cond_embeds_width:
        return None
    files = {"weights", "conditioner_weights"} & type(part).model_fields.keys()
    try:
        with torch.device("meta"):
            made = part.model_copy(update=dict.fromkeys(files)).conditioner()
            return cast(made, DTYPES[spec.dtype])
    except Exception as problem:  # whatever a plugin's constructor does, the rest is counted
        left_out.append(f"conditioner: not counted: {first_line(problem)}")
        return None


def first_line(problem: Exception) -> str:
    """What an error says first, or its type."""
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def count_encoding(spec: PolicySpec, vae: Any, images: int) -> Counter:
    """Cost of encoding `images` images of each view; zero without a VAE."""
    with torch.no_grad(), Counter() as counter:
        encode_zeros(spec, vae, images)
    return counter


def encode_zeros(spec: PolicySpec, vae: Any, images: int) -> None:
    """Encode `images` images of each view on the meta device, if `vae_on_meta` made a VAE."""
    canvas = torch.zeros(spec.cameras.apart, 3, images, *spec.cameras.canvas, device="meta")
    if not isinstance(vae, str):
        encode_canvas(spec, vae, canvas)


def without_weights(part: Any) -> Any:
    """`part` without its weights."""
    return part.model_copy(update={"weights": None}) if part.weights is not None else part


def zero_inputs(
    spec: PolicySpec,
    head: ActionHead,
    device: str = "meta",
    *,
    chunks: int = 1,
    sigma: float = 1.0,
) -> ModelInputs:
    """One sample of zeros: the inputs at the start of a chunk, or of `chunks` chunks at `sigma`."""
    traits, (observed, imagined) = spec.backbone.traits, spec.latent_frames
    imagined = imagined * chunks - (spec.lead_frames * spec.cameras.apart if chunks > 1 else 0)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(1, *shape, device=device)

    observed += spec.leading_frames
    z = zeros(spec.vae.channels, observed, *spec.latent_size)
    again = observed if imagined and spec.paradigm.targets_see_downscaled else 0
    future = zeros(spec.vae.channels, again + imagined, *spec.target_size)
    cond = None
    if traits.cond_channels:
        cond = zeros(traits.cond_channels, observed + imagined, *spec.latent_size)
    vectors = {part: zeros(1, spec.sizes.token_dim(part)) for part in spec.predicts}
    vectors["action"] = zeros(spec.actions.chunk_size, spec.actions.size)
    latent = {part: head.to_latent(part, x) for part, x in vectors.items()}
    latent["action"] = torch.cat([latent["action"]] * chunks, 1)
    return build_inputs(
        Text(
            zeros(spec.text_encoder.max_tokens, traits.text_width),
            cond_embeds=zeros(1, traits.cond_embeds_width) if traits.cond_embeds_width else None,
            follows=traits.text_follows,
        ),
        build_clips(spec, z, future, cond, sigma),
        latent,
        zeros(spec.state.size) if spec.state.size else None,
        sigma,
    )

"""Find the cause of an action chunk or imagined video that is not finite.

A chunk is checked on the host, as it leaves the policy, in every run mode; nothing else is
checked while a policy acts. Only when that fails, every source of the chunk is
searched: weights, text embeddings, latents, statistics, and the dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checkpoints.finite import AGAIN, bad_weights, fault, is_finite, largest_weight
from ..config.parts import KINDS
from ..errors import WamkitError
from . import preprocessing

if TYPE_CHECKING:
    from .observation import ActionChunk, Observation
    from .policy import Policy

LARGE = 1e4
"""Size from which a weight is named where a network overflows."""


def expect_chunk(policy: Policy, chunk: ActionChunk, normal: Tensor, seen: Observation) -> None:
    """Raise WamkitError, with the cause, if anything in a chunk is not finite.

    `normal` are the actions before statistics were applied.
    """
    parts = {"value": chunk.value, **chunk.notes}
    if is_finite(chunk.values) and all(x is None or is_finite(x) for x in parts.values()):
        return
    named = next((name for name, x in parts.items() if x is not None and not is_finite(x)), "")
    what = f"{named!r} of the chunk is not finite"
    if not is_finite(chunk.values):
        b, step, place = (~chunk.values.isfinite()).nonzero()[0].tolist()
        value, bad = float(chunk.values[b, step, place]), int((~chunk.values.isfinite()).sum())
        sample = f"sample {b}, " if len(chunk.values) > 1 else ""
        what = (
            f"the actions are not finite: {value} at {sample}step {step} of {chunk.names[place]!r}"
            f", {bad} of {chunk.values.numel()} values"
        )
        if is_finite(normal):
            raise WamkitError(
                f"{what}\n  the output of the network is finite; with the statistics of "
                f"{chunk.names[place]!r} it is too large for float32",
                "compute the statistics again: `wamkit data stats`",
            )
    raise diagnose(policy, what, seen)


def expect_imagined(policy: Policy, images: Tensor, seen: Observation) -> None:
    """Raise WamkitError, with the cause, if imagined images are not finite."""
    if not is_finite(images):
        raise diagnose(policy, f"the imagined images are not finite: {fault(images)}", seen)


def diagnose(policy: Policy, what: str, seen: Observation) -> WamkitError:
    """Return the error that names the cause."""
    weights = _weights(policy)
    if found := bad_weights(weights):
        more = f"\n  and {len(found) - 8} more" if len(found) > 8 else ""
        lines = "\n  ".join(found[:8])
        return WamkitError(f"{what}\n  weights hold NaN or infinity:\n  {lines}{more}", AGAIN)
    for why, hint in _inputs(policy, seen):
        return WamkitError(f"{what}\n  {why}", hint)
    dtype = policy.spec.dtype
    name, size = largest_weight(weights)
    why = f"all weights and inputs are finite: backbone and action head overflow in {dtype}"
    hint = "look at the weights' source: `wamkit weights inspect FILE`"
    if size > LARGE:
        why += f"; the largest weight is {size:.3g}, in {name}"
    if policy.quantized != "none":
        why, hint = f"{why} and {policy.quantized}", "act without --quantize"
    elif dtype != "float32":
        hint = "set dtype=float32"
    return WamkitError(f"{what}\n  {why}", hint)


def _weights(policy: Policy) -> dict[str, object]:
    kinds = (*KINDS, "conditioner", "text_adapter", "latent_adapter")
    return {kind: getattr(policy, kind) for kind in kinds}


@torch.no_grad()
def _inputs(policy: Policy, seen: Observation) -> Iterator[tuple[str, str]]:
    """Yield text embeddings and latents that are not finite, with reason and hint."""
    embedded: Sequence[Tensor] = [policy.text_embeddings.encode(seen.prompt).tokens]
    if policy.pooled_text is not None:
        embedded = [*embedded, policy.pooled_text.encode(seen.prompt).tokens]
    if wrong := next(filter(None, map(fault, embedded)), None):
        name = policy.spec.text_encoder.name
        yield (
            f"text encoder {name!r} embeds {seen.prompt[0]!r} as non-finite values: {wrong}",
            "load its weights in float32 or bfloat16, or precompute: `wamkit precompute text`",
        )
    first = {name: x[:, : policy.spec.video.num_observed] for name, x in seen.images.items()}
    images = type(seen)(first, seen.prompt, seen.state)
    canvas = preprocessing.canvas_of(policy, images)
    for kind, numbers in (
        ("canvas", canvas),
        ("latents", preprocessing.encode_images(policy, canvas)),
    ):
        if wrong := fault(numbers):
            dtype = policy.spec.vae.dtype
            yield (
                f"the {kind} of the images from VAE {policy.spec.vae.name!r} in {dtype} are not "
                f"finite: {wrong}",
                "set vae.dtype=float32" if dtype != "float32" else "look at the VAE's weights",
            )

"""Counts the parameters of a part without allocating one of them."""

from __future__ import annotations

from ..config.check import missing_files
from ..config.parts import (
    ActionHeadConfig,
    HeadContext,
    ParadigmConfig,
    Part,
    TextEncoderConfig,
    Weighted,
)


def parameters(part: Part, sizes: HeadContext | None = None) -> int | str:
    """Count the parameters of `part` on the meta device, or return why it cannot be done.

    An action head is counted for `sizes`. No file of weights is read.
    """
    if isinstance(part, ParadigmConfig):
        return 0
    if isinstance(part, TextEncoderConfig) and part.external_weights:
        return "kept by reference, in a folder of its own"
    if missing := missing_files(part):
        return f"not counted: {', '.join(missing)} is not installed"
    if isinstance(part, ActionHeadConfig) and sizes is None:
        return "depends on the rest of a policy: `wamkit explain SPEC`"
    import torch

    from ..checkpoints import safetensors as weights

    if isinstance(part, Weighted):
        part = part.model_copy(update={"weights": None})
    try:
        with torch.device("meta"):
            head = isinstance(part, ActionHeadConfig)
            module = part.build(sizes) if head else part.build()  # type: ignore[attr-defined]
    except (
        Exception
    ) as problem:  # a plugin's constructor may raise anything; the rest is still listed
        return f"cannot be built without weights: {type(problem).__name__}: {problem}"
    return weights.parameters(module) if isinstance(module, torch.nn.Module) else 0

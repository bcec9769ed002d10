"""Optimization: learning rate schedule, AdamW groups by part, gradient clipping, EMA."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WamkitError
from ..policy.policy import Policy
from .batches import seed_of
from .config import Parts, TrainConfig
from .lora import Adapters
from .processes import gather_tensor, local_shard


def share_of_peak(config: TrainConfig, step: int) -> float:
    """The learning rate of the update after `step` others, as a share of the peak."""
    rise = round(config.warmup_ratio * config.steps)
    if step < rise:
        done = (step + 1) / rise
        return done if config.schedule != "one_cycle" else 0.5 - 0.5 * math.cos(math.pi * done)
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - rise) / max(1, config.steps - 1 - rise))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * (0.5 + 0.5 * math.cos(math.pi * done))


def set_trainable(policy: Policy, parts: Parts) -> None:
    """Set `requires_grad` of each part by `parts`, and put frozen parts into eval mode.

    Trainable weights become float32. Raises WamkitError if `parts` sets a part that the policy
    lacks, or if every part is frozen.
    """
    policy.train()
    kept: tuple[object, ...] = (policy.vae, policy.conditioner)
    frozen = [module for module in kept if isinstance(module, nn.Module)]
    for kind in Parts.model_fields:
        module = getattr(policy, kind)
        learns = isinstance(module, nn.Module) and any(p.requires_grad for p in module.parameters())
        if not learns and kind in parts.model_fields_set:
            raise WamkitError(
                f"parts.{kind} is set, and this policy has nothing to learn there",
                "leave it out",
            )
        if isinstance(module, nn.Module):
            if kind != "text_encoder" or learns:
                module.float()
            if getattr(parts, kind).freeze or not learns:
                frozen.append(module)
    for module in frozen:
        module.requires_grad_(False)
        module.eval()
    if not any(p.requires_grad for p in policy.parameters()):
        raise WamkitError("every part is frozen", "let one learn: parts.action_head.freeze=false")


def add_adapters(policy: Policy, config: TrainConfig) -> Adapters | None:
    """Add LoRA adapters to a policy, if its settings ask for any.

    Raises WamkitError if they cannot be, or if a part is to rest that has them.
    """
    if config.lora is None:
        return None
    modules: dict[str, nn.Module] = {kind: getattr(policy, kind) for kind in config.lora.parts}
    for kind in modules:
        if getattr(config.parts, kind).freeze:
            raise WamkitError(
                f"parts.{kind}.freeze is set, and lora.parts names {kind}",
                f"leave parts.{kind}.freeze out: with adapters all its weights are frozen",
            )
    return Adapters(modules, config.lora, seed_of("lora", config.seed))


def optimizer(policy: Policy, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with a group for each part, and one more without weight decay.

    Its moments exist from the start, so that they can be saved and loaded at any step. On a GPU an
    update is one kernel.
    """
    groups: list[dict[str, Any]] = []
    for kind in Parts.model_fields:
        module, part_settings = getattr(policy, kind), getattr(config.parts, kind)
        if not isinstance(module, nn.Module):
            continue
        weights = [p for p in module.parameters() if p.requires_grad]
        for decays in (True, False):
            chosen = [p for p in weights if (p.ndim >= 2) is decays]
            decay = config.weight_decay if decays else 0.0
            peak = part_settings.lr or config.lr
            if config.lora is not None and kind in config.lora.parts:
                peak = config.lora.lr or peak
            if chosen:
                groups.append({"params": chosen, "peak": peak, "part": kind, "weight_decay": decay})
    every = [p for group in groups for p in group["params"]]
    fused = all(p.device.type == "cuda" for p in every)
    made = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    for group in made.param_groups:
        for p in group["params"]:
            made.state[p] = {
                "step": torch.zeros((), device=p.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
    return made


def set_rates(made: torch.optim.Optimizer, config: TrainConfig, step: int) -> dict[str, float]:
    """Set the learning rates of the update after `step` others; part -> rate."""
    share, rates = share_of_peak(config, step), {}
    for group in made.param_groups:
        group["lr"] = rates[group["part"]] = group["peak"] * share
    return rates


def grad_norm(weights: Sequence[nn.Parameter]) -> Tensor:
    """L2 norm of the gradient of all `weights` together."""
    grads = [p.grad for p in weights if p.grad is not None]
    return gather_tensor(torch.nn.utils.get_total_norm(grads))


def grad_norms(made: torch.optim.Optimizer) -> dict[str, float]:
    """L2 norm of the gradient of each part: part -> norm."""
    parts: dict[str, list[nn.Parameter]] = {}
    for group in made.param_groups:
        parts.setdefault(group["part"], []).extend(group["params"])
    return {part: float(grad_norm(weights)) for part, weights in parts.items()}


def clip_grad_norm(weights: Sequence[nn.Parameter], most: float | None, found: Tensor) -> None:
    """Scale gradients of norm `found` down to at most `most`; None leaves them."""
    if most is not None:
        torch.nn.utils.clip_grads_with_norm_(weights, most, found)


class EMA:
    """Exponential moving average of weights."""

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self.weights, self.decay = list(weights), decay
        self.values = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after update number `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [local_shard(p) for p in self.weights]
        torch._foreach_lerp_([local_shard(x) for x in self.values], weights, 1 - decay)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Replace the weights by their average within the block."""
        held = [p.detach().clone() for p in self.weights]
        self._assign(self.values)
        try:
            yield
        finally:
            self._assign(held)

    @torch.no_grad()
    def _assign(self, values: Sequence[Tensor]) -> None:
        torch._foreach_copy_(
            [local_shard(p) for p in self.weights], [local_shard(x) for x in values]
        )


class NoiseScale:
    """Gradient noise scale: the batch size beyond which more samples stop helping.

    The simple noise scale of McCandlish et al. (arXiv 1812.06162, appendix A): from the norm of
    the gradient of few samples and of many, the trace of its covariance over its square. Numerator
    and denominator are averaged over updates with decay 0.95.
    """

    def __init__(self) -> None:
        self.spread = self.square = 0.0

    def update(self, few: int, short: float, many: int, long: float) -> None:
        """`short` and `long`: squared norms of the gradients of `few` and of `many` samples."""
        square = (many * long - few * short) / (many - few)
        spread = (short - long) / (1 / few - 1 / many)
        if not (math.isfinite(square) and math.isfinite(spread)):
            return  # squares of large gradients leave the range of float32; gradients do not
        self.square = 0.95 * self.square + 0.05 * square
        self.spread = 0.95 * self.spread + 0.05 * spread

    @property
    def value(self) -> float | None:
        """Samples, or None while the estimate is not positive."""
        return self.spread / self.square if self.square > 0 and self.spread > 0 else None

"""Train a policy in several processes: its loss as one module's forward, under DDP or FSDP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from ..errors import WamkitError
from ..policy.observation import Batch, Imagined, Observation
from ..policy.policy import DTYPES, Policy, Seed
from ..policy.run_mode import compiler
from .config import TrainConfig
from .processes import Processes


class LossModule(nn.Module):
    """A policy whose forward is its loss."""

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        super().__init__()
        self.policy = policy
        self._compute, self._recompute = DTYPES[config.precision], config.gradient_checkpointing

    def forward(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """`total`, which trains, and the loss of each part."""
        with self._gather_weights():
            losses = self.policy.loss(batch, seed=seed, compute=self._compute)
        return {"total": losses.total, **losses.parts}

    def imagine(self, observation: Observation, seed: Seed) -> Imagined:
        """The future that the policy imagines."""
        with self._gather_weights():
            return self.policy.imagine(observation, seed=seed)

    @contextmanager
    def _gather_weights(self) -> Iterator[None]:
        """Under FSDP the weights of a block are gathered only while it runs."""
        runner = self.policy.runner
        before = runner.sharded, runner.recompute
        runner.sharded, runner.recompute = isinstance(self, FSDPModule), self._recompute
        try:
            yield
        finally:
            runner.sharded, runner.recompute = before


class DistributedPolicy:
    """A policy in all processes (DDP or FSDP): gradients are the mean over processes."""

    def __init__(self, loss_module: LossModule, config: TrainConfig, processes: Processes) -> None:
        self.loss_module, self.processes = loss_module, processes
        self.sharded = config.parallelism == "fsdp"
        self._module: Any = loss_module
        if self.sharded:
            if processes.world == 1:
                raise WamkitError(
                    "parallelism is fsdp, and there is one process",
                    "torchrun --nproc-per-node 2 -m wamkit train ..., or parallelism=ddp",
                )
            _shard(loss_module)
        elif processes.world > 1:
            ids = [processes.device] if processes.device.type == "cuda" else None
            self._module = DistributedDataParallel(
                loss_module, device_ids=ids, find_unused_parameters=True
            )

    def losses(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """The losses of one pass."""
        torch.manual_seed(seed)  # for layers with their own random draws, such as dropout
        return self._module(batch, seed)  # type: ignore[no-any-return]

    @contextmanager
    def no_sync(self, enabled: bool) -> Iterator[None]:
        """Skip the gradient reduction within the block, if `enabled` (DDP `no_sync`)."""
        if isinstance(self._module, DistributedDataParallel) and enabled:
            with self._module.no_sync():
                yield
        else:
            yield

    def weights(self) -> dict[str, Tensor]:
        """Every weight and buffer of the policy that is saved, by name."""
        return {name: x.detach() for name, x in self.loss_module.policy.state_dict().items()}

    def trainable_weights(self) -> dict[str, nn.Parameter]:
        """Trainable weights, by name."""
        return {n: p for n, p in self.loss_module.policy.named_parameters() if p.requires_grad}


def expect_compiler(device: torch.device) -> None:
    """Raise WamkitError if `torch.compile` lacks a C++ compiler that it needs on this device."""
    if device.type == "cpu" and compiler() is None:
        raise WamkitError(
            "compile=true needs a C++ compiler on the CPU, and none was found",
            "install g++ (or name one in the variable CXX), or leave compile=true out",
        )


METHODS = ("modulation", "text_kv", "pre_attention", "post_attention")
"""Methods of a block (`wamkit.interfaces.Block`) that are called."""


def _shard(loss_module: LossModule) -> None:
    """Shard the weights over processes: each block, and all other weights together.

    What does not learn stays whole. A block is gathered for each of its methods.
    """
    resting = {p for p in loss_module.parameters() if not p.requires_grad}
    for module in reversed(list(loss_module.modules())):
        if not all(hasattr(module, method) for method in METHODS):
            continue
        if all(p in resting for p in module.parameters()):
            continue
        fully_shard(module, ignored_params=resting)
        for method in METHODS:
            register_fsdp_forward_method(module, method)
    fully_shard(loss_module, ignored_params=resting, reshard_after_forward=True)
    assert isinstance(loss_module, FSDPModule)
    register_fsdp_forward_method(loss_module, "imagine")

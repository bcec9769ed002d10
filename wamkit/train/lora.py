r"""LoRA adapters of peft: added to linear layers, trained, and merged before saving.

    x --linear W, frozen--> + --> y         W' = W + alpha / rank * B A    is saved
     \--A--> rank --B--> * alpha / rank --/

Hu et al., "LoRA" (arXiv 2106.09685); the layers are those of github.com/huggingface/peft. B begins
as zeros: before the first update an adapted policy is the policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ..acceleration.compile_modules import blocks
from ..errors import WamkitError
from ..files.install import install_hint
from .config import Lora
from .processes import gather_tensor

NAME = "default"  # of peft's own: a layer can have several adapters, and here has one


def expect() -> None:
    """Raise WamkitError unless peft is installed."""
    if find_spec("peft") is None:
        raise WamkitError(
            "adapters of low rank need peft, which is not installed", install_hint("lora")
        )


class Adapters:
    """The adapters of some modules, until they are merged."""

    def __init__(self, modules: Mapping[str, nn.Module], config: Lora, seed: int) -> None:
        """Put adapters into `modules`, by kind of part, and freeze everything else in them.

        A seed always draws the same ones. Raises WamkitError if peft is missing, or if a module has
        no linear layer that matches.
        """
        expect()
        found = {
            kind: target_layers(module, kind, config.targets) for kind, module in modules.items()
        }
        for kind, names in found.items():
            if not names:
                asked = "" if config.targets is None else f" that {config.targets!r} is found in"
                raise WamkitError(
                    f"the blocks of this {kind} have no linear layer{asked}",
                    f"leave lora.targets open, or {kind} out of lora.parts",
                )
        names = [name for found_in in found.values() for name in found_in]
        holder = nn.ModuleDict(dict(modules))
        peft = import_module("peft")
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules="|".join(map(re.escape, names)),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(settings, holder, NAME)
        self._holder = holder
        self.layers: dict[str, Any] = {name: holder.get_submodule(name) for name in names}

    def merged(self, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Merge adapters into a copy of `weights`, named as in the policy without adapters.

        One at a time, since each that is merged is new; in all processes, if they hold parts.
        """
        for name, value in weights.items():
            if name.partition(".lora_")[0] in self.layers:
                continue
            layer, of_base, own = name.partition(".base_layer.")
            if of_base and layer in self.layers:
                name = f"{layer}.{own}"
                if own == "weight":
                    a, b = (gather_tensor(weights[f"{layer}.lora_{x}.{NAME}.weight"]) for x in "AB")
                    value = gather_tensor(value) + self.layers[layer].scaling[NAME] * (b @ a)
            yield name, value

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Disable the adapters within the block."""
        self._put({name: layer.base_layer for name, layer in self.layers.items()})
        try:
            yield
        finally:
            self._put(self.layers)

    def merge(self) -> None:
        """Merge the adapters into the modules, and remove them."""
        with torch.no_grad():
            for layer in self.layers.values():
                layer.base_layer.weight += layer.get_delta_weight(NAME)
        self._put({name: layer.base_layer for name, layer in self.layers.items()})

    def _put(self, layers: Mapping[str, nn.Module]) -> None:
        for name, layer in layers.items():
            parent, _, leaf = name.rpartition(".")
            setattr(self._holder.get_submodule(parent), leaf, layer)


def target_layers(module: nn.Module, kind: str, targets: str | None) -> list[str]:
    """Names of the linear layers inside the blocks of a part; `targets` as in the settings."""
    inside = {m for block in blocks(module) for m in block.modules() if isinstance(m, nn.Linear)}
    names = [f"{kind}.{name}" for name, m in module.named_modules() if m in inside]
    return [name for name in names if targets is None or re.search(targets, name)]

"""DreamZero's own code on a CPU, in float64, for `make_dreamzero_tiny.py`: import this first.

What is replaced, and what of it, is said there.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wamkit.testing.tolerance import float64

CLIP = 16
"""Width of CLIP tokens."""


class Stub(types.ModuleType):
    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Batch(types.SimpleNamespace):
    """Of tianshou: attributes."""


def stub() -> None:
    names = ("albumentations", "decord", "tianshou", "tianshou.data", "tianshou.policy", "tree")
    for name in names:
        module = Stub(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
    sys.modules["tianshou.data"].Batch = Batch  # type: ignore[attr-defined]
    sys.modules["tree"].map_structure = lambda f, data: {  # type: ignore[attr-defined]
        name: f(value) for name, value in data.items()
    }
    torch.compile = lambda f=None, **_: f if f is not None else (lambda g: g)  # type: ignore
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    torch.amp.autocast = lambda *_, **__: contextlib.nullcontext()  # type: ignore

    class Event:
        def __init__(self, **_: Any) -> None: ...
        def record(self) -> None: ...
        def elapsed_time(self, _: Any) -> float:
            return 0.0

    torch.cuda.Event = Event  # type: ignore[assignment, misc]


class OnCPU(TorchFunctionMode):
    """Read "cuda" as the CPU and bfloat16 as float64 in calls of torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = {key: self.read(x) for key, x in (kwargs or {}).items()}
        return func(*(self.read(x) for x in args), **named)

    def read(self, x: Any) -> Any:
        if isinstance(x, str) and x == "cuda":
            return "cpu"
        return torch.float64 if x is torch.bfloat16 else x


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Run the published code in float64 on the CPU."""
    with float64(), OnCPU():
        yield


def fill(module: nn.Module, seed: int, scale: float = 1.0) -> nn.Module:
    """Weights that follow from a seed alone."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            spread = scale / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.copy_((p.ndim == 1) * 0.5 + torch.randn(p.shape, generator=rng) * spread)
    return module.eval()


def sdpa(q: Tensor, k: Tensor, v: Tensor, *_: Any, causal: bool = False, **__: Any) -> Tensor:
    """Attention in the layout of flash attention."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).contiguous()


stub()

import groot.vla.model.dreamzero.action_head.wan_flow_matching_action_tf as head_module  # noqa: E402
import groot.vla.model.dreamzero.modules.wan2_1_attention as attention  # noqa: E402
import groot.vla.model.dreamzero.modules.wan2_1_submodule as submodule  # noqa: E402
import groot.vla.model.dreamzero.modules.wan_video_dit_action_casual_chunk as dit  # noqa: E402
from groot.vla.model.dreamzero.modules.flow_unipc_multistep_scheduler import (  # noqa: E402
    FlowUniPCMultistepScheduler,
)


class Sampler(FlowUniPCMultistepScheduler):
    """The published sampler, its grid in float64 once it is rounded to float32."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.sigmas = self.sigmas.double()


submodule.flash_attention = attention.flash_attention = sdpa
project = submodule.MLPProj
dit.MLPProj = lambda _, width: project(CLIP, width)
head_module.FlowUniPCMultistepScheduler = Sampler

"""wamkit: robot policies composed of parts.

    import wamkit

    policy = wamkit.build("examples/toy.toml")
    seen = wamkit.Observation(images={"front": "photo.jpg"}, prompt="pick up the cup")
    chunk = policy.act(seen, seed=0)

Importing wamkit imports little, and no torch: what a name needs is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import SpecError, WamkitError

if TYPE_CHECKING:
    from .config.check import check, warnings_of
    from .config.hooks import hookimpl
    from .config.registry import registry
    from .config.trust import trusting_paths
    from .interfaces.streams import denoise
    from .policy.action_prefix import ActionPrefix
    from .policy.build import build, load_part
    from .policy.observation import ActionChunk, Batch, Observation
    from .policy.policy import Policy

__version__ = "0.1.0"

__all__ = [
    "ActionChunk",
    "ActionPrefix",
    "Batch",
    "Observation",
    "Policy",
    "SpecError",
    "WamkitError",
    "build",
    "check",
    "denoise",
    "hookimpl",
    "load_part",
    "registry",
    "trusting_paths",
    "warnings_of",
]

_HOMES = {
    "ActionChunk": "policy.observation",
    "ActionPrefix": "policy.action_prefix",
    "Batch": "policy.observation",
    "Observation": "policy.observation",
    "Policy": "policy.policy",
    "build": "policy.build",
    "check": "config.check",
    "denoise": "interfaces.streams",
    "hookimpl": "config.hooks",
    "load_part": "policy.build",
    "registry": "config.registry",
    "trusting_paths": "config.trust",
    "warnings_of": "config.check",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wamkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

"""The importer `ge_act`: checkpoints of GE-Act (Genie Envisioner)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.importing import Imported, ImporterConfig, read_unverified, read_verified
from wamkit.config.parts import Part

if TYPE_CHECKING:
    from wamkit.checkpoints.source import Source

WAMKIT_API = 1


class GEAct(ImporterConfig):
    """GE-Act (arXiv 2508.05635): one safetensors with `action_*` next to a video model with views.

    The releases for LIBERO and CALVIN are recognized by the size of what is denoised; a run's own
    YAML file is read where there is one. Statistics are a JSON file next to the weights, such as
    `libero_all.json` or `stats_calvin_rel.json` of the authors' repository.
    """

    license = "CC BY-NC-SA 4.0"
    source = "https://github.com/AgibotTech/Genie-Envisioner"
    verified: ClassVar[Mapping[str, float]] = read_verified(__file__)
    unverified: ClassVar[Mapping[str, str]] = read_unverified(__file__)

    name: Literal["ge_act"] = "ge_act"
    release: Literal["auto", "libero", "calvin"] = "auto"
    """Whose robot: cameras, actions, rates. `auto`: by the size of an action with its state."""

    def recognizes(self, source: Source) -> bool:
        wanted = {"view_embed", "action_proj_in.weight", "action_scale_shift_table"}
        return wanted <= source.tensor_names

    def read(self, source: Source) -> Imported:
        from .checkpoint import read

        return read(self, source)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Offer the importer."""
    add(GEAct)

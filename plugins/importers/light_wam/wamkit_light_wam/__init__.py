"""The importer `light_wam`: checkpoints of Light-WAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.importing import Imported, ImporterConfig, read_unverified, read_verified
from wamkit.config.parts import Part

if TYPE_CHECKING:
    from wamkit.checkpoints.source import Source

WAMKIT_API = 1


class LightWAM(ImporterConfig):
    """Light-WAM (arXiv 2606.08242): `.pt` with `mot`, `state_fusion_action_expert`.

    Its LoRA is merged into the video transformer; alpha and rank are in the run's `config.yaml`, or
    stated with `backbone.lora_scale`. Statistics are `dataset_stats.json` next to the file.
    """

    license = "MIT"
    source = "https://github.com/L1ziang/Light-WAM"
    verified: ClassVar[Mapping[str, float]] = read_verified(__file__)
    unverified: ClassVar[Mapping[str, str]] = read_unverified(__file__)

    name: Literal["light_wam"] = "light_wam"
    release: Literal["auto", "libero", "robotwin"] = "auto"
    """Whose robot: cameras, actions, rates. `auto`: by the sizes of action and state."""
    embodiment: str | None = None
    """Key of the statistics of several data sets; needed only if there are several."""

    def recognizes(self, source: Source) -> bool:
        names = source.tensor_names
        return any(n.endswith("state_fusion_action_expert.fused_proj.weight") for n in names)

    def read(self, source: Source) -> Imported:
        from .checkpoint import read

        return read(self, source)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Offer the importer."""
    add(LightWAM)

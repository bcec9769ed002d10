"""The importer `fastwam`: checkpoints of Fast-WAM, -Joint, -IDM and -Optional-IDM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.importing import (
    Exported,
    Imported,
    ImporterConfig,
    Normalized,
    read_unverified,
    read_verified,
)
from wamkit.config.parts import Conflict, Part

if TYPE_CHECKING:
    from wamkit.checkpoints.source import Source
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class FastWAM(ImporterConfig):
    """Fast-WAM (arXiv 2603.16666), Joint, IDM, optional IDM: `.pt` of `mot`, `proprio_encoder`.

    The released files for LIBERO and RoboTwin are recognized by the sizes of action and state; a
    run's own `config.yaml` is read where there is one. Statistics are `*dataset_stats.json` next to
    the file. A policy folder of LeRobot's Fast-WAM states all that itself.
    """

    license = "MIT"
    source = "https://github.com/yuantianyuan01/FastWAM"
    verified: ClassVar[Mapping[str, float]] = read_verified(__file__)
    unverified: ClassVar[Mapping[str, str]] = read_unverified(__file__)

    name: Literal["fastwam"] = "fastwam"
    variant: Literal["auto", "uncond", "joint", "idm", "optional_idm"] = "auto"
    """Which of the four was trained. `auto`: by `config.yaml`, or the name of the file."""
    release: Literal["auto", "libero", "robotwin"] = "auto"
    """Whose robot: cameras, actions, rates. `auto`: by the sizes of action and state."""
    embodiment: str | None = None
    """Key of the statistics of several data sets; needed only if there are several."""

    def recognizes(self, source: Source) -> bool:
        names = source.tensor_names
        return any(n.endswith("mixtures.action.action_encoder.weight") for n in names) and any(
            n.endswith("mixtures.video.patch_embedding.weight") for n in names
        )

    def read(self, source: Source) -> Imported:
        from .checkpoint import read

        return read(self, source)

    exports: ClassVar[tuple[str, ...]] = ("lerobot",)

    def export_conflicts(self, format: str, spec: PolicySpec) -> Iterator[Conflict]:
        from .lerobot_conflicts import conflicts

        return conflicts(spec)

    def export(
        self, format: str, spec: PolicySpec, normalized: Mapping[str, Normalized]
    ) -> Exported:
        from .lerobot_export import export

        return export(spec, normalized)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Offer the importer."""
    add(FastWAM)

"""The importer `cosmos_policy`: checkpoints of Cosmos Policy for LIBERO, RoboCasa and ALOHA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.importing import Imported, ImporterConfig, read_unverified, read_verified
from wamkit.config.parts import Part

if TYPE_CHECKING:
    from wamkit.checkpoints.source import Source

WAMKIT_API = 1


class CosmosPolicy(ImporterConfig):
    """Cosmos Policy (arXiv 2601.16163): a `.pt` of `net.*`, or a folder `model` of DCP.

    The robot is recognized by the name of the checkpoint, or set with `suite`. Statistics are
    `*dataset_statistics.json` next to it.
    """

    license = "NVIDIA Open Model License"
    source = "https://github.com/NVlabs/cosmos-policy"
    verified: ClassVar[Mapping[str, float]] = read_verified(__file__)
    unverified: ClassVar[Mapping[str, str]] = read_unverified(__file__)

    name: Literal["cosmos_policy"] = "cosmos_policy"
    suite: Literal["auto", "libero", "robocasa", "aloha"] = "auto"
    """Whose robot: cameras, actions, rates. `auto`: by the name of the file or folder, or by 14
    actions."""

    def recognizes(self, source: Source) -> bool:
        from .checkpoint import is_cosmos_policy

        return is_cosmos_policy(source)

    def read(self, source: Source) -> Imported:
        from .checkpoint import read

        return read(self, source)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Offer the importer."""
    add(CosmosPolicy)

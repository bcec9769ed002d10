"""The importer `dreamzero`: checkpoints of DreamZero on Wan 2.1 14B and on Wan 2.2 5B."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.importing import Imported, ImporterConfig, read_unverified, read_verified
from wamkit.config.parts import Part

if TYPE_CHECKING:
    from wamkit.checkpoints.source import Source

WAMKIT_API = 1


class DreamZero(ImporterConfig):
    """DreamZero (arXiv 2602.15922): a folder of `model.safetensors`, whole or in shards.

    The files hold `action_head.model.*`, with LoRA adapters or without, the frozen CLIP tower, the
    VAE and UMT5. Statistics are `experiment_cfg/metadata.json`, sizes are those of `config.json`
    and of the tensors. A robot that is not known needs cameras and groups of its own.
    """

    license = "Apache-2.0"
    source = "https://github.com/dreamzero0/dreamzero"
    verified: ClassVar[Mapping[str, float]] = read_verified(__file__)
    unverified: ClassVar[Mapping[str, str]] = read_unverified(__file__)

    name: Literal["dreamzero"] = "dreamzero"
    robot: Literal["auto", "droid", "agibot"] = "auto"
    """Whose cameras, actions and prompt. `auto`: by the data set in `metadata.json`."""
    evaluations: Literal[5, 6, 7, 8, 16] = 8
    """Network evaluations in 16 steps, as NUM_DIT_STEPS of the published code chooses them."""

    def recognizes(self, source: Source) -> bool:
        names = source.tensor_names
        return any(name.endswith("model.action_encoder.W1.W") for name in names) and any(
            name.endswith("model.patch_embedding.weight") for name in names
        )

    def read(self, source: Source) -> Imported:
        from .checkpoint import read

        return read(self, source)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Offer the importer."""
    add(DreamZero)

"""The importer `imagewam`: checkpoints of ImageWAM on FLUX.2 klein, 4B and 9B."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from wamkit.config.hooks import hookimpl
from wamkit.config.importing import Imported, ImporterConfig, read_unverified, read_verified
from wamkit.config.parts import Part

if TYPE_CHECKING:
    from wamkit.checkpoints.source import Source

WAMKIT_API = 1
ENCODER = "mixtures.action.action_encoder.weight"
BLOCK = "mixtures.action.double_blocks.0.img_attn.qkv.weight"


class ImageWAM(ImporterConfig):
    """ImageWAM (arXiv 2606.19531) on FLUX.2: `model.pt` with `mot` and `proprio_encoder`.

    Whole payloads, merged LoRA, LoRA that was never merged, and payloads of trained tensors alone.
    A run's `train_config.yaml` or `config.yaml`, and `dataset_stats.json`, are read where they are.
    """

    license = "MIT"
    source = "https://github.com/yuyangalin/ImageWAM"
    verified: ClassVar[Mapping[str, float]] = read_verified(__file__)
    unverified: ClassVar[Mapping[str, str]] = read_unverified(__file__)

    name: Literal["imagewam"] = "imagewam"
    release: Literal["auto", "libero", "robotwin"] = "auto"
    """Whose robot: cameras, actions, rates. `auto`: by the sizes of action and state."""
    embodiment: str | None = None
    """Key of the statistics of several data sets; needed only if there are several."""

    def recognizes(self, source: Source) -> bool:
        names = source.tensor_names
        return all(any(n.endswith(name) for n in names) for name in (ENCODER, BLOCK))

    def read(self, source: Source) -> Imported:
        from .checkpoint import read

        return read(self, source)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Offer the importer."""
    add(ImageWAM)

"""What every part is: a frozen table with a name, and for some with weights of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from ..errors import Caution, Conflict
from .kinds import Kind
from .published import Published, open_fields
from .values import Table

if TYPE_CHECKING:
    from .spec import PolicySpec


class Part(Table):
    """Base configuration of a part, with `build`. Frozen; unknown keys are refused."""

    kind: ClassVar[Kind]
    license: ClassVar[str] = "Apache-2.0"
    """License of the published weights, or of the code where there are none."""
    source: ClassVar[str] = ""
    """Where the architecture comes from: a repository or a paper."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Importable modules that `build` needs beyond wamkit's own dependencies."""
    system_options: ClassVar[tuple[str, ...]] = ()
    """Fields that only a published system sets: the page of `wamkit explore` offers none of them,
    and shows a system that has some as a whole."""

    name: str

    def tiny(self) -> Part | dict[str, Any]:
        """The same kind of part at a size that builds on a CPU in a second, for tests and `--tiny`.

        Where the real class cannot exist without published files, a dictionary that names another
        part of the same kind. The caller tells the user what became of what.
        """
        return self

    def variations(self) -> Sequence[Part]:
        """Variants of the part with other settings that change the result, for `wamkit.testing`."""
        return ()

    def resolve(self, spec: PolicySpec) -> Part:
        """This part with open fields (`None`) set from the other parts."""
        return self

    def default_parts(self) -> dict[str, dict[str, Any]]:
        """kind -> the table of another part that this one needs instead of the usual default."""
        return {}

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        """Yield every reason why this part cannot work in `spec`."""
        yield from ()

    def cautions(self, spec: PolicySpec) -> Iterator[Caution]:
        """Yield a warning for every reason why this part may not work in `spec` as expected."""
        yield from ()


class Weighted(Part):
    """A part that has weights of its own."""

    weights: str | None = None
    """Folder or file with published weights, or hf:owner/name; none means random weights. Where a
    file holds several sets, `file#prefix` reads the one whose names begin so."""
    derived_from: str | None = None
    """Which published weights `weights` were made from, and how; `wamkit prune` writes it."""
    lora: str | None = None
    """Folder or file with LoRA adapters that are merged into `weights` when they are read, or
    hf:owner/name. Adapters in the files of `weights` are merged without it."""
    lora_scale: float | None = Field(None, ge=0)
    """alpha / rank of the LoRA adapters in `weights` or `lora`, where no file states it."""

    config_folders: ClassVar[tuple[str, ...]] = ()
    """Subfolders of a checkpoint in which its weights and their config.json may be."""
    compares_config: ClassVar[bool] = True
    """False for a part that compares the config.json of its weights in `conflicts` itself."""

    @classmethod
    def published(cls) -> Sequence[Published]:
        """How the config.json next to published weights is read; optional.

        Where it is given, a size that the spec leaves open is that of the folder, and one that is
        written must be the folder's.
        """
        return ()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        return {**given, **open_fields(cls, given)} if isinstance(given, dict) else given

    def layouts(self) -> Sequence[Any]:
        """The layouts its files may be in (`wamkit.checkpoints.safetensors.CheckpointLayout`).

        None for wamkit's own names alone.
        """
        return ()

    def materialize(self, make: Callable[[], Any], folders: Sequence[str] | None = None) -> Any:
        """What `make` builds with the weights that this part names, or random ones if none.

        `folders` stand in for `config_folders`. Raises WamkitError if the weights do not fit.
        """
        from ..checkpoints.safetensors import materialize_part

        return materialize_part(self, make, self.config_folders if folders is None else folders)

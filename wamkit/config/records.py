"""Records of a run in small files, validated by a schema: every fault at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from ..errors import WamkitError
from ..files import strict_json
from ..files.paths import fault_of_name
from ..files.placeholders import placeholder_error, refuse_placeholder, refuse_special
from .mistakes import explain_mistakes
from .robot import Section

T = TypeVar("T", bound=BaseModel)
Mark = Annotated[str, Field(pattern=r"^\d{1,18}:[0-9a-f]{16}$")]
MOST_FILES = 10**5  # of one checkpoint
MOST = 2**53  # the largest step or place; more is damage
SAMPLE_BYTES = 2**16  # bytes that are read at the beginning, in the middle and at the end of a file


def _inside(name: str) -> str:
    if (fault := fault_of_name(name)) is not None:
        raise ValueError(f"the name of a file of the checkpoint {fault}")
    return name


class Place(Section):
    """Where a run is in the order of its data."""

    epoch: int = Field(ge=0, le=MOST)
    position: int = Field(ge=0, le=MOST)
    seed: int = Field(ge=0)
    size: int = Field(gt=0, le=MOST)
    batch: int = Field(gt=0, le=MOST)


class Noise(Section):
    """Averages that the gradient's noise scale is made of."""

    spread: float = Field(allow_inf_nan=False)
    square: float = Field(allow_inf_nan=False)


class Record(Section):
    """run.json of a checkpoint. It is written last, so a checkpoint that has it is finished."""

    step: int = Field(ge=0, le=MOST)
    loader: Place
    best: float | None = Field(allow_inf_nan=False)
    """Lowest loss on held-out episodes of all checkpoints until then."""
    best_step: int | None = Field(ge=0, le=MOST)
    """The checkpoint that had it."""
    noise: Noise

    def expect_place(self, file: Path) -> None:
        """Raise WamkitError unless the place in the data is that after `step` batches.

        Every step takes one batch, and an epoch is `size // batch` of them.
        """
        place = self.loader
        batches = place.epoch * (place.size // place.batch) + place.position
        if batches != self.step:
            raise WamkitError(
                f"{file} is damaged: epoch {place.epoch} and position {place.position} are those "
                f"after {batches} batches, and the step is {self.step}",
                _cure(file),
            )


class Manifest(Section):
    """files.json of a checkpoint: what tells its files from others."""

    files: dict[Annotated[str, AfterValidator(_inside)], Mark] = Field(
        min_length=1, max_length=MOST_FILES
    )
    """File -> its size and a hash of its beginning, middle and end."""


def read_record(file: Path) -> Record:
    """The record of a checkpoint. Raises WamkitError with all that is wrong with it."""
    checkpoint, hint = file.parent, _cure(file)
    record = parse_record(file, Record, strict_json.loads, hint)
    if checkpoint.name.startswith("step-") and checkpoint.name != f"step-{record.step:06d}":
        raise WamkitError(
            f"{file} is damaged: it is of step {record.step}, its folder is {checkpoint.name}", hint
        )
    return record


def read_manifest(file: Path) -> Manifest:
    """The manifest of a checkpoint. Raises WamkitError with all that is wrong with it."""
    return parse_record(file, Manifest, strict_json.loads, _cure(file))


def _cure(file: Path) -> str:
    name = file.parent.name
    return f"copy {name} again, or move it away: --resume then takes the one before"


def parse_record(file: Path, cls: type[T], read: Callable[[str], Any], hint: str) -> T:
    """A small file as `cls`, exactly: nothing is converted, nothing is filled in.

    Raises WamkitError with every fault.
    """
    refuse_special(file)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WamkitError(f"{file} is damaged: it is no text ({error.reason})", hint) from None
    except OSError as error:
        raise WamkitError(f"{file} cannot be read: {error.strerror}", hint) from None
    if not text.strip():
        raise WamkitError(f"{file} is damaged: it is empty", hint)
    refuse_placeholder(file)
    try:
        raw = read(text)
        plain = json.dumps(raw)
    except Exception as error:  # whatever a parser says of text that it was not made for
        reason = " ".join(str(error).split())
        raise WamkitError(f"{file} is damaged: {reason or type(error).__name__}", hint) from None
    if not isinstance(raw, Mapping):
        raise WamkitError(f"{file} is damaged: it holds a {type(raw).__name__}, not a table", hint)
    try:
        return cls.model_validate_json(plain, strict=True)
    except ValidationError as error:
        faults = [f"{c.between[0]}: {c.why}" for c in explain_mistakes(error, "", cls)]
        raise WamkitError(f"{file} is damaged: {'; '.join(faults)}", hint) from None


def manifest(folder: Path) -> Manifest:
    """What tells the files of a folder from others."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return Manifest(files={p.relative_to(folder).as_posix(): mark(p) for p in files})


def mark(file: Path) -> str:
    """Size of a file, and a hash of its beginning, middle and end."""
    refuse_special(file)
    size, found = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as stream:
        for start in sorted(
            {0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)}
        ):
            stream.seek(start)
            found.update(stream.read(SAMPLE_BYTES))
    return f"{size}:{found.hexdigest()[:16]}"


def faults(folder: Path, files: Mapping[str, str], under: str) -> Iterator[str]:
    """Messages for the damaged files of a checkpoint below `under`."""
    for name, wanted in files.items():
        file = folder / name
        if not name.startswith(f"{under}/"):
            continue
        size = wanted.partition(":")[0]
        try:
            found = mark(file)
        except FileNotFoundError:
            yield f"{name} is missing"
            continue
        except OSError as error:
            yield f"{name} cannot be read ({error.strerror})"
            continue
        if found == wanted:
            continue
        there = found.partition(":")[0]
        if there != "0" and (stand_in := placeholder_error(file)):
            yield stand_in.what
        elif there == size:
            yield f"{name} is another file than was saved, or it is damaged"
        else:
            yield f"{name} has {there} bytes of {size}"
    known = {name for name in files if name.startswith(f"{under}/")}
    there_are = {f"{under}/{p.name}" for p in (folder / under).glob("*")}
    for name in sorted(there_are - known):
        yield f"{name} does not belong to it"

"""The tensors that a run resumes from, as safetensors files that any number of processes can read.

torch.distributed.checkpoint gathers what went wrong in every process and raises it as a
`CheckpointException`, which is no `Exception`; here it becomes a WamkitError in all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ..checkpoints import files
from ..errors import WamkitError
from .processes import Processes

SHOWN = 5  # faults of tensors that a message lists


def write_state(state: Mapping[str, Tensor], place: Path, processes: Processes) -> None:
    """Write tensors to a new folder, each process its shards. Raises WamkitError in all."""
    with processes.raise_together():
        place.mkdir(exist_ok=True)
    with _explain_errors(f"{place} cannot be written"):
        writer = _Writer(str(place), save_distributed=True)
        save(dict(state), storage_writer=writer, no_dist=processes.world == 1)


def read_state(state: Mapping[str, Tensor], place: Path, processes: Processes) -> None:
    """Read tensors into those of `state`, in place.

    Raises WamkitError in all processes, before anything is changed, unless the folder holds exactly
    these names with these shapes and dtypes.
    """
    with processes.raise_together():
        source = _Reader(str(place))
        expect(source.read_metadata(), state, place)
    with _explain_errors(f"{place} cannot be read"):
        load(dict(state), storage_reader=source, no_dist=processes.world == 1)


def expect(found: Metadata, state: Mapping[str, Tensor], place: Path) -> None:
    """Raise WamkitError unless these tensors are in the files, and no others."""
    there = found.state_dict_metadata
    wrong = [f"{name} is missing" for name in state if name not in there]
    wrong += [f"{name} belongs to nothing here" for name in there if name not in state]
    for name, wanted in state.items():
        stored: Any = there.get(name)
        if not isinstance(stored, TensorStorageMetadata):
            continue
        shape, kind = list(stored.size), stored.properties.dtype
        pieces = sum(torch.Size(chunk.sizes).numel() for chunk in stored.chunks)
        if shape != list(wanted.shape):
            wrong.append(f"{name} is {shape}; expected {list(wanted.shape)}")
        elif kind != wanted.dtype:
            wrong.append(f"{name} is {kind}; expected {wanted.dtype}")
        elif pieces != wanted.numel():
            wrong.append(f"of {name} there are {pieces} values of {wanted.numel()}")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise WamkitError(f"{place} holds another state: {'; '.join(wrong[:SHOWN])}{more}")


class _Writer(HuggingFaceStorageWriter):
    def write_data(self, plan: Any, planner: Any) -> Any:
        with _portable(self.path):
            return super().write_data(plan, planner)


class _Reader(HuggingFaceStorageReader):
    def read_metadata(self) -> Metadata:
        with _portable(self.path):
            every = sorted(Path(self.path).glob("*.safetensors"))
            for file in every:
                files.headers([file])  # raises an error that names the file and the fault
            if not every:
                raise WamkitError(f"{self.path} holds no safetensors files")
            return super().read_metadata()

    def read_data(self, plan: Any, planner: Any) -> Any:
        with _portable(self.path):
            return super().read_data(plan, planner)


@contextmanager
def _portable(place: Any) -> Iterator[None]:
    """Raise errors in a form that can be pickled."""
    try:
        yield
    except WamkitError:
        raise
    except OSError as error:
        where = str(error.filename or place)
        raise OSError(error.errno, error.strerror or str(error), where) from None
    except Exception as error:
        raise OSError(f"{place}: {error or type(error).__name__}") from None


@contextmanager
def _explain_errors(what: str) -> Iterator[None]:
    """Raise a `CheckpointException` as WamkitError; let Ctrl-C pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a process alone is alone
            yield
    except CheckpointException as problem:
        found = {rank: error for rank, (error, _) in problem.failures.items()}
        for error in found.values():
            if not isinstance(error, Exception):
                raise error from None
        one = len(found) == 1
        faults = [str(e) if one else f"process {rank}: {e}" for rank, e in sorted(found.items())]
        raise WamkitError(f"{what}: {'; '.join(faults)}") from None
    except OSError as error:
        raise WamkitError(f"{what}: {error}") from None

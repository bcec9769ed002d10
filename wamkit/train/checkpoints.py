"""The folder of a run and its checkpoints, each written whole or not at all.

RUN/spec.yaml                     the policy
RUN/train.yaml                    the settings, and what the data were
RUN/log.jsonl                     one line every few steps
RUN/checkpoints/step-000100/policy    a saved policy, for `wamkit.Policy.load`
RUN/checkpoints/step-000100/state     what is needed to go on: weights, their average, moments
RUN/checkpoints/step-000100/run.json  step, place in the data
RUN/checkpoints/last              link to the newest
RUN/checkpoints/best              link to the best on held-out episodes, if any are held out

Tensors are written by torch.distributed.checkpoint as safetensors: every process writes what it
holds, and any number of processes can read it. Nothing is pickled.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from .. import folder, strict_json
from ..errors import WamkitError
from ..policy import Policy
from .processes import Processes, full

SPEC, SETTINGS, LOG = "spec.yaml", "train.yaml", "log.jsonl"
STATE, POLICY, RUN = "state", "policy", "run.json"


class RunFolder:
    """Where a run keeps what it makes."""

    def __init__(self, place: str | Path, processes: Processes, keep: int) -> None:
        self.place = Path(place).expanduser().absolute()
        self.processes, self.keep = processes, keep
        self.checkpoints = self.place / "checkpoints"

    @property
    def best(self) -> Path | None:
        """The checkpoint with the lowest loss on held-out episodes, if any was validated."""
        link = self.checkpoints / "best"
        return link.resolve() if link.is_dir() else None

    def begin(self, told: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Make the folder of a new run. Raises WamkitError if it holds another one."""
        if self.place.exists() and (not self.place.is_dir() or any(self.place.iterdir())):
            raise WamkitError(
                f"{self.place} is not empty",
                "go on with --resume, or choose another folder for this run",
            )
        self.processes.wait()  # all have looked before the first one writes
        if self.processes.first:
            self.checkpoints.mkdir(parents=True)
            (self.place / SPEC).write_text(yaml.safe_dump(dict(spec), sort_keys=False))
            (self.place / SETTINGS).write_text(yaml.safe_dump(dict(told), sort_keys=False))

    def go_on(self, told: dict[str, Any], spec: Mapping[str, Any], free: set[str]) -> Path:
        """The newest checkpoint of the run that is here.

        Raises WamkitError if there is none, or if what decides the numbers was something else then.
        """
        try:
            then = yaml.safe_load((self.place / SETTINGS).read_text())
            policy = yaml.safe_load((self.place / SPEC).read_text())
        except (OSError, yaml.YAMLError):
            raise WamkitError(f"there is no run in {self.place}", "leave --resume out") from None
        last = self.checkpoints / "last"
        if not (last / RUN).is_file():
            raise WamkitError(
                f"{self.place} has no checkpoint yet", "remove it and begin again, without --resume"
            )
        changed = [] if policy == spec else ["spec"]
        if then["data"] != told["data"]:
            changed.append("data")
        changed += [
            name
            for name, value in told["settings"].items()
            if name not in free and then["settings"].get(name) != value
        ]
        if changed:
            raise WamkitError(
                f"{self.place} was trained with another {' and another '.join(changed)}",
                "resume with what it was begun with; see its spec.yaml and train.yaml",
            )
        self.processes.wait()  # all have read before the first one writes
        if self.processes.first:
            (self.place / SETTINGS).write_text(yaml.safe_dump(told, sort_keys=False))
        return last.resolve()

    def save(
        self,
        step: int,
        policy: Policy,
        weights: Iterable[tuple[str, Tensor]],
        state: Mapping[str, Tensor],
        run: Mapping[str, Any],
        *,
        best: bool,
    ) -> Path:
        """Write a checkpoint under another name, then rename it, then move the links.

        `weights` are those the saved policy gets, by name. If this is interrupted at any moment,
        `last` is the checkpoint before, and the unfinished one is removed at the next.
        """
        goal = self.checkpoints / f"step-{step:06d}"
        part = self.checkpoints / f".{goal.name}.part"
        if self.processes.first:
            for rest in self.checkpoints.glob(".*.part"):
                shutil.rmtree(rest)
            part.mkdir()
        self.processes.wait()
        write_state(state, part / STATE, self.processes)
        whole: dict[str, Tensor] = {}
        for name, value in weights:  # one at a time, and kept in one process alone
            gathered = full(value)
            if self.processes.first:
                whole[name] = gathered.cpu()
        if self.processes.first:
            folder.save(policy, part / POLICY, whole)
            (part / RUN).write_text(strict_json.dumps(dict(run), indent=1) + "\n")
            finish(part, goal)
            _link(self.checkpoints / "last", goal.name)
            if best:
                _link(self.checkpoints / "best", goal.name)
            self._forget()
        self.processes.wait()
        return goal

    def _forget(self) -> None:
        """Remove all checkpoints but the newest and the best."""
        every = sorted(self.checkpoints.glob("step-*"), key=lambda p: int(p.name[5:]))
        named = {(self.checkpoints / name).resolve() for name in ("last", "best")}
        for old in every[: -self.keep]:
            if old not in named:
                shutil.rmtree(old)


def finish(part: Path, goal: Path) -> None:
    """Give a checkpoint that is whole its name; one of the same step gives way to it."""
    old = goal.with_name(f".{goal.name}.old.part")
    if goal.exists():
        os.replace(goal, old)
    os.replace(part, goal)
    shutil.rmtree(old, ignore_errors=True)


def _link(link: Path, target: str) -> None:
    """Point a link, relative to its own folder, somewhere else at one stroke."""
    new = link.with_name(f".{link.name}.part-link")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, link)


def write_state(state: Mapping[str, Tensor], place: Path, processes: Processes) -> None:
    """Write tensors to a new folder, each process what it holds."""
    place.mkdir(exist_ok=True)
    writer = HuggingFaceStorageWriter(str(place), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a process alone is alone
        save(dict(state), storage_writer=writer, no_dist=processes.world == 1)


def read_state(state: Mapping[str, Tensor], place: Path, processes: Processes) -> None:
    """Read tensors into those of `state`, in place. Raises WamkitError if any is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = HuggingFaceStorageReader(str(place))
            load(dict(state), storage_reader=source, no_dist=processes.world == 1)
    except Exception as error:
        raise WamkitError(
            f"{place} cannot be read: {error}", "resume from another checkpoint: point `last` at it"
        ) from None

"""The folder of a run and its checkpoints, each written atomically.

RUN/spec.yaml                     the policy
RUN/train.yaml                    the settings, and a fingerprint of the data
RUN/log.jsonl                     one line every few steps
RUN/checkpoints/step-000100/policy    a saved policy, for `wamkit.Policy.load`
RUN/checkpoints/step-000100/state     state to resume from: weights, their average, moments
RUN/checkpoints/step-000100/files.json  names, sizes and hashes of its files
RUN/checkpoints/step-000100/run.json  step, place in the data, the best step; written last
RUN/checkpoints/last              link to the newest, or a text file that names it
RUN/checkpoints/best              the same for the best on held-out episodes, if any are held out

A run is resumed from the newest finished checkpoint, regardless of the link `last`
(`wamkit.config.runs`). Tensors are written by torch.distributed.checkpoint as safetensors: every
process writes its own shards, and any number of processes can read it. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import finite
from ..config import runs
from ..config.records import Record, faults, manifest, read_manifest, read_record
from ..config.runs import FILES, LOG, POLICY, RUN, SETTINGS, SPEC, STATE
from ..errors import WamkitError
from ..files import durable, strict_json, strict_yaml
from ..files.locking import NAME as LOCK
from ..files.locking import lock
from ..files.paths import expand_home
from ..policy import saving as folder
from ..policy.policy import Policy
from .config import FREE
from .processes import Processes, gather_tensor
from .run_record import (
    RunRecord,
    differences,
    has_only_startup_files,
    read_run,
    read_run_without_checkpoint,
)
from .states import read_state, write_state

__all__ = ["LOG", "POLICY", "RUN", "SETTINGS", "SPEC", "STATE", "RunFolder", "finish", "read_state"]

OTHER = "choose another folder for this run with --out"


class RunFolder:
    """Files of a run."""

    def __init__(self, place: str | Path, processes: Processes, keep: int) -> None:
        self.place = expand_home(place).absolute()
        self.processes, self.keep = processes, keep
        self.checkpoints = self.place / runs.CHECKPOINTS

    @contextmanager
    def locked(self, resume: bool) -> Iterator[None]:
        """Lock the folder against other runs within the block.

        Raises WamkitError in every process if one does, if there is nothing to resume, or if the
        folder of a new run holds anything.
        """
        with ExitStack() as stack:
            with self.processes.raise_together():
                self._expect(resume)
            self.processes.wait()  # all have looked before the first one writes
            with self.processes.raise_together():
                if self.processes.first:
                    with _explain_write_errors(
                        f"a run cannot begin in {self.place}", "choose another --out"
                    ):
                        durable.make_folder(self.place)
                    stack.enter_context(lock(self.place, OTHER))
                    self._expect(resume)
                    durable.sweep(self.place)
                    runs.tidy(self.checkpoints)
            yield

    def _expect(self, resume: bool) -> None:
        """Raise WamkitError unless a run can start or resume here."""
        if self.place.exists() and not self.place.is_dir():
            raise WamkitError(f"{self.place} is a file", OTHER)
        if resume:
            if not self.place.is_dir():
                raise WamkitError(f"there is no run in {self.place}", "leave --resume out")
            return
        if not self.place.exists() or {p.name for p in self.place.iterdir()} <= {LOCK}:
            return
        if has_only_startup_files(self.place):
            raise WamkitError(
                f"{self.place} is not empty: a run was begun in it, and has no checkpoint yet",
                "--resume begins it again, with the settings that it had; or " + OTHER,
            )
        raise WamkitError(
            f"{self.place} is not empty",
            "go on with --resume, or choose another folder for this run",
        )

    def begin(self, run_settings: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Write settings and spec before the first update. Raises WamkitError in all processes."""
        with self.processes.raise_together():
            if self.processes.first:
                with _explain_write_errors(
                    f"a run cannot begin in {self.place}", "choose another --out"
                ):
                    durable.make_folder(self.checkpoints)
                _write(self.place / SPEC, strict_yaml.dumps(dict(spec)))
                _write(self.place / SETTINGS, strict_yaml.dumps(dict(run_settings)))

    def resume_from(
        self, run_settings: dict[str, Any], spec: Mapping[str, Any]
    ) -> tuple[tuple[Path, Record] | None, list[str]]:
        """Return the newest finished checkpoint, its record, and notes for the user.

        None for the checkpoint if the run was killed before its first one: it can be begun again.
        Raises WamkitError if there is no run, if it is damaged, or if a setting that affects the
        result was something else then.
        """
        with self.processes.raise_together():
            unsaved = has_only_startup_files(self.place)
            begun = read_run_without_checkpoint(self.place) if unsaved else read_run(self.place)
            if begun is not None:
                self._expect_same(begun, run_settings, spec)
            if unsaved:
                return None, [f"{self.place} has no checkpoint yet: the run begins again"]
            checkpoint, notes = self._newest()
            return (checkpoint, self._record(checkpoint)), notes

    def _expect_same(
        self,
        recorded: tuple[RunRecord, Mapping[str, Any]],
        run_settings: dict[str, Any],
        spec: Mapping[str, Any],
    ) -> None:
        changed = differences(*recorded, run_settings, spec, FREE)
        if changed:
            names = " and another ".join(changed)
            raise WamkitError(
                f"{self.place} was trained with another {names}: {', '.join(changed.values())}",
                "resume with the original settings; see its spec.yaml and train.yaml",
            )

    def record_resume(self, run_settings: dict[str, Any], checkpoint: Path, record: Record) -> None:
        """Record the settings of the resumed run, and complete an interrupted save.

        Copied checkpoints get their names, `last` and `best` point to theirs, and those that are no
        longer kept go.
        """
        self.processes.wait()  # all have read before the first one writes
        with self.processes.raise_together():
            if self.processes.first:
                with _explain_write_errors(f"{self.place} cannot be resumed", "make it writable"):
                    runs.settle(self.checkpoints)
                    self._point(record)
                    self._prune(record.best_step)
                _write(self.place / SETTINGS, strict_yaml.dumps(run_settings))

    def _newest(self) -> tuple[Path, list[str]]:
        """The newest finished checkpoint, and a note on newer ones that were not finished."""
        every, there = runs.finished(self.checkpoints), runs.steps(self.checkpoints)
        if not every and there:
            raise WamkitError(
                f"{self.place} has no finished checkpoint: {there[-1].name} lacks {RUN}",
                "copy the run again with all its files, or begin a new run from a policy in it: "
                f"wamkit train {there[-1] / POLICY} --out ANOTHER",
            )
        if not every:
            raise WamkitError(
                f"{self.place} has no checkpoint, and holds other files than a run that was begun",
                OTHER,
            )
        step, checkpoint = every[-1]
        newer = [p.name for p in there if (runs.step_of(p) or 0) > step]
        unfinished = f"{', '.join(newer)} lacks {RUN}, so it was not finished: "
        notes = [f"{unfinished}going on from {checkpoint.name}"] if newer else []
        pointed = runs.named(self.checkpoints, "last")
        if pointed not in (None, checkpoint, self.checkpoints / "last"):
            notes.append(f"last is {pointed.name}, going on from the newest: {checkpoint.name}")
        return checkpoint, notes

    def _record(self, checkpoint: Path) -> Record:
        """Return the record of a checkpoint after verifying its files."""
        record = read_record(checkpoint / RUN)
        files = read_manifest(checkpoint / FILES).files
        if wrong := list(faults(checkpoint, files, STATE)):
            raise WamkitError(
                f"{checkpoint} is damaged: {'; '.join(wrong)}", self.unreadable_hint(record.step)
            )
        return record

    def unreadable_hint(self, step: int) -> str:
        """Hint for a checkpoint that cannot be read."""
        name = f"step-{step:06d}"
        older = [p.name for k, p in runs.finished(self.checkpoints) if k < step]
        if older:
            return (
                f"copy {name} again, or move it out of {self.checkpoints}: --resume then continues "
                f"from {older[-1]}"
            )
        return (
            f"copy {name} again; there is no other checkpoint, but a new run can begin from its "
            f"policy: wamkit train {self.checkpoints / name / POLICY} --out ANOTHER"
        )

    def has(self, step: int | None) -> bool:
        """True if the checkpoint of this step is still there."""
        return step is not None and (self._of(step) / RUN).is_file()

    def restore(self, checkpoint: Path, state: Mapping[str, Tensor]) -> None:
        """Read the tensors of a checkpoint in place. Raises WamkitError if they are not those."""
        try:
            read_state(state, checkpoint / STATE, self.processes)
        except WamkitError as error:
            step = read_record(checkpoint / RUN).step
            raise WamkitError(error.what, error.hint or self.unreadable_hint(step)) from None

    def save(
        self,
        policy: Policy,
        weights: Iterable[tuple[str, Tensor]],
        state: Mapping[str, Tensor],
        run: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint under a temporary name, rename it, then update the links.

        `weights` are those of the saved policy, by name; `run` is its record. If this is
        interrupted at any moment, `last` is the checkpoint before, and the unfinished one is
        removed when the run resumes. Raises WamkitError in every process if it fails in one.
        """
        goal = self.checkpoints / f"step-{run['step']:06d}"
        try:
            self._write(goal, policy, weights, state, run)
        except (WamkitError, OSError) as error:
            if self.processes.first:
                with suppress(OSError):
                    runs.tidy(self.checkpoints)
            reason = error.what if isinstance(error, WamkitError) else str(error)
            raise WamkitError(f"{goal} could not be written: {reason}", self._safe()) from None
        self.processes.wait()
        return goal

    def newest(self) -> Path | None:
        """The newest finished checkpoint, if there is one that can be read."""
        try:
            every = runs.finished(self.checkpoints)
        except WamkitError:
            every = []
        return every[-1][1] if every else None

    def _safe(self) -> str:
        """Sentence on what is safe if a checkpoint cannot be written, and how to resume."""
        newest, first = self.newest(), "make room, or make the folder writable"
        if newest is None:
            return (
                f"{first}; nothing was saved before it: the same command with --resume begins again"
            )
        return (
            f"{first}; {newest.name} is complete: the same command with --resume continues from it"
        )

    def _write(
        self,
        goal: Path,
        policy: Policy,
        weights: Iterable[tuple[str, Tensor]],
        state: Mapping[str, Tensor],
        run: Mapping[str, Any],
    ) -> None:
        first = self.processes.first
        with self.processes.raise_together():
            if first:
                runs.tidy(self.checkpoints)
        part = Path(self.processes.same(str(durable.temporary_name(goal))))
        with self.processes.raise_together():
            if first:
                part.mkdir()
        write_state(state, part / STATE, self.processes)
        whole: dict[str, Tensor] = {}
        for name, value in weights:  # one at a time, and kept in one process alone
            gathered = gather_tensor(value)
            if first:
                whole[name] = gathered.cpu()
        with self.processes.raise_together():
            if first:
                finite.expect_weights(whole.items(), {}, whole=True)
                folder.save(policy, part / POLICY, whole)
                record = Record.model_validate(run)
                for file, content in ((FILES, manifest(part)), (RUN, record)):
                    text = strict_json.dumps(content.model_dump(mode="json"), indent=1)
                    (part / file).write_text(text + "\n", encoding="utf-8")
                finish(part, goal)
                self._point(record)
                self._prune(record.best_step)

    def _point(self, record: Record) -> None:
        """Point `last` and `best` to the checkpoints that a record names."""
        named = {"last": record.step, "best": record.best_step}
        for name, step in named.items():
            link = self.checkpoints / name
            if self.has(step) and runs.named(self.checkpoints, name) != self._of(step):
                runs.point(link, self._of(step).name)

    def _of(self, step: int | None) -> Path:
        return self.checkpoints / f"step-{step or 0:06d}"

    def _prune(self, best: int | None) -> None:
        """Remove all checkpoints except the newest and the best."""
        for old in runs.steps(self.checkpoints)[: -self.keep]:
            if runs.step_of(old) != best:
                durable.discard(old)


def finish(part: Path, goal: Path) -> None:
    """Rename a complete checkpoint to its final name, replacing an existing one."""
    durable.replace_folder(part, goal)


def _write(file: Path, text: str) -> None:
    """Write a small file of a run atomically."""
    durable.write_text(file, text, "the checkpoints are complete, and --resume continues from them")


@contextmanager
def _explain_write_errors(what: str, hint: str) -> Iterator[None]:
    """Raise errors of the file system as NotWrittenError with a hint."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise WamkitError(f"{what}: {error.strerror}{where}", hint) from None

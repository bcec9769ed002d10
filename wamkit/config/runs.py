"""The folders that training leaves behind: which checkpoint is the newest, which policy is meant.

Nothing here relies on links. A checkpoint is finished if it has a run.json, which names its step;
`last` and `best` are conveniences. They may be links, text files that hold the name of a folder
(where links cannot be made), folders (where a copy followed them), or absent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import WamkitError
from ..files.durable import discard, recover, recover_all, remove, sweep, sync, temporary_name
from ..files.hub import POLICY as POLICY_FILES
from ..files.hub import is_remote, local_path
from ..files.paths import expand_home
from .records import read_record

CHECKPOINTS, POLICY, STATE, RUN = "checkpoints", "policy", "state", "run.json"
FILES = "files.json"
SPEC, SETTINGS, LOG = "spec.yaml", "train.yaml", "log.jsonl"
NAMES = ("last", "best")
STEP = re.compile(r"step-(\d{1,18})")
HIDDEN = re.compile(r"\.(step-\d{1,18}|last|best)\.")
"""How the names begin that a run gives to what it is writing among its checkpoints."""


@dataclass(frozen=True)
class Found:
    """A saved policy, and how it was found if its folder was not named itself."""

    policy: Path
    note: str | None = None


def step_of(checkpoint: Path) -> int | None:
    """The step in the name of a checkpoint's folder, or of the folder that a name stands for."""
    name = STEP.fullmatch(checkpoint.name)
    return int(name[1]) if name else None


def steps(checkpoints: Path) -> list[Path]:
    """All folders `step-N`, the oldest first, finished or not.

    What a replacement that was cut short left aside is put back before.
    """
    if not checkpoints.is_dir():
        return []
    recover_all(checkpoints)
    found = [p for p in checkpoints.iterdir() if step_of(p) is not None and p.is_dir()]
    return sorted(found, key=lambda p: step_of(p) or 0)


def finished(checkpoints: Path) -> list[tuple[int, Path]]:
    """Step and folder of every finished checkpoint, the oldest first.

    A copy under the name `last` or `best` counts if there is no other folder of its step. Raises
    WamkitError if such a copy is damaged.
    """
    found = {step_of(p) or 0: p for p in steps(checkpoints) if (p / RUN).is_file()}
    for copied in copies(checkpoints):
        found.setdefault(read_record(copied / RUN).step, copied)
    return sorted(found.items())


def copies(checkpoints: Path) -> list[Path]:
    """`last` and `best` where they are finished checkpoints themselves, and no links."""
    named = [checkpoints / name for name in NAMES]
    return [p for p in named if not p.is_symlink() and (p / RUN).is_file()]


def named(checkpoints: Path, name: str) -> Path | None:
    """The checkpoint that `last` or `best` stands for by itself, if it is in this folder."""
    place = checkpoints / name
    if place.is_symlink():
        target = Path(os.readlink(place)).name
    elif place.is_file():
        target = place.read_text(errors="replace").strip()
    else:
        return place if place.is_dir() else None
    goal = checkpoints / target
    return goal if STEP.fullmatch(target) and goal.is_dir() else None


def best(checkpoints: Path) -> Path | None:
    """The checkpoint with the lowest loss on held-out episodes, as the newest one tells it.

    Raises WamkitError if what it tells is damaged.
    """
    every = dict(finished(checkpoints))
    if not every:
        return named(checkpoints, "best")
    chosen = read_record(every[max(every)] / RUN).best_step
    return None if chosen is None else every.get(chosen)


def point(link: Path, target: str) -> None:
    """Let `last` or `best` stand for another folder next to it, at once.

    A link where the file system has links, otherwise a text file with the folder's name.
    """
    new = temporary_name(link)
    try:
        try:
            new.symlink_to(target)
        except (OSError, NotImplementedError):
            new.write_text(target + "\n")
            sync(new)
        if link.is_dir() and not link.is_symlink():
            _move_copy_aside(link)
        os.replace(new, link)
        sync(link.parent)
    finally:
        remove(new)


def _move_copy_aside(copied: Path) -> None:
    """Make room where a copy is in the way of a link; only what is there twice is removed."""
    record = copied / RUN
    if record.is_file():
        own = copied.with_name(f"step-{read_record(record).step:06d}")
        if not own.exists():
            os.replace(copied, own)
            return
        if (own / RUN).is_file() and (own / RUN).read_bytes() == record.read_bytes():
            discard(copied)
            return
    numbers = (copied.with_name(f"{copied.name}-copy-{k}") for k in range(1, 10_000))
    os.replace(copied, next(place for place in numbers if not place.exists()))


def settle(checkpoints: Path) -> None:
    """Give copies under the names `last` and `best` the names of their steps, and point to them."""
    for copied in copies(checkpoints):
        own = f"step-{read_record(copied / RUN).step:06d}"
        point(copied, own)


def tidy(checkpoints: Path) -> None:
    """Remove what a killed run left here, and put back a checkpoint that lost its name.

    To be called by the one process that holds the run (`wamkit.files.locking`).
    """
    sweep(checkpoints)
    names = sorted(os.listdir(checkpoints)) if checkpoints.is_dir() else []
    hidden_names = [name for name in names if HIDDEN.match(name)]
    for name in hidden_names:
        if name.endswith(".old.part"):  # as versions before wrote it between two renames
            recover(checkpoints / name[1:].removesuffix(".old.part"))
    for name in hidden_names:
        remove(checkpoints / name)


def find(path: str | Path) -> Found:
    """The saved policy at `path`: its folder, or that of a checkpoint, of checkpoints or of a run.

    Of several checkpoints the best is taken, otherwise the newest with a policy. Raises WamkitError
    with what the folder is if there is no policy in it.
    """
    given = local_path(path, files=POLICY_FILES)
    place = through(given)
    note = None if place == given else f"{given} is {place} here"
    if (place / POLICY).is_dir():  # a checkpoint
        return Found(_policy_of(place), note or f"{given}: the policy is in {POLICY}/")
    run = (place / CHECKPOINTS).is_dir() or (place / SETTINGS).is_file()
    if (place / SPEC).is_file() and not run:
        return Found(place, note)
    if (place / RUN).is_file():
        return Found(_policy_of(place))
    inner = place / CHECKPOINTS if run else place
    if run or steps(inner) or any((inner / name).is_dir() for name in NAMES):
        chosen, why = _chosen(inner)
        return Found(_policy_of(chosen), f"{given}: taking {chosen.relative_to(place)}, {why}")
    raise WamkitError(f"{given} is no saved policy: {_kind(place)}", _cure(place))


def is_folder(path: str | Path) -> bool:
    """True if a saved policy, a run or a part of one is meant, and not a spec file."""
    return is_remote(path) or through(expand_home(path)).is_dir()


def through(path: Path) -> Path:
    """`path` with `last` and `best` replaced by what they stand for, where they are no links.

    What a replacement that was cut short left aside is put back before
    (`wamkit.files.durable.recover`).
    """
    path = recover(path)
    if path.exists() and not (path.is_file() and path.name in NAMES):
        return path
    for place in (path, *path.parents):
        if place.name in NAMES and steps(place.parent):
            goal = named(place.parent, place.name) or _meant(place.parent, place.name)
            if goal is not None:
                return goal / path.relative_to(place)
    return path


def _meant(checkpoints: Path, name: str) -> Path | None:
    if name == "best":
        return best(checkpoints)
    every = finished(checkpoints)
    return every[-1][1] if every else None


def _chosen(checkpoints: Path) -> tuple[Path, str]:
    """The best checkpoint that has a policy, or the newest, and why."""
    usable = {step_of(p) or 0: p for p in steps(checkpoints) if _has_policy(p)}
    for copied in filter(_has_policy, copies(checkpoints)):
        usable.setdefault(read_record(copied / RUN).step, copied)
    if not usable:
        for name in reversed(NAMES):
            if _has_policy(checkpoints / name):
                return checkpoints / name, "the only one with a policy"
        why = "none is whole" if steps(checkpoints) else "none was saved yet"
        raise WamkitError(
            f"{checkpoints} has no checkpoint with a policy: {why}",
            "train until one is saved (--train save_every=...), or copy the run again",
        )
    choice = best(checkpoints)
    if choice is not None and choice in usable.values():
        return choice, "the best on held-out episodes"
    newest = usable[max(usable)]
    if choice is None:
        return newest, "the newest: no held-out episodes tell which is the best"
    return newest, f"the newest: the best, {choice.name}, has no policy here"


def _policy_of(checkpoint: Path) -> Path:
    if not _has_policy(checkpoint):
        raise WamkitError(
            f"{checkpoint} is a checkpoint without a policy: {POLICY}/{SPEC} is missing",
            "name another checkpoint, or copy this one again",
        )
    return checkpoint / POLICY


def _has_policy(checkpoint: Path) -> bool:
    return (checkpoint / POLICY / SPEC).is_file()


KINDS = {
    "meta/info.json": ("a data set", "name the policy here, and the data set with --data"),
    "model_index.json": (
        "a published model in diffusers' layout",
        'name it in a spec: [backbone] weights = "FOLDER"',
    ),
    "pyproject.toml": ("a Python project", "pip install it, and name its part in a spec"),
    STATE: ("a checkpoint that was not finished", "name another checkpoint of the run"),
    "model.safetensors": ("weights without a spec", 'name them in a spec: weights = "FOLDER"'),
}
OTHERWISE = (
    "name a spec file, a folder written by `wamkit build SPEC --out FOLDER`, or a run of "
    "`wamkit train`"
)


def _kind(place: Path) -> str:
    for file, (what, _) in KINDS.items():
        if (place / file).exists():
            return f"it is {what}"
    if not place.is_dir():
        return "there is no such folder" if not place.exists() else "it is a file"
    inside = sorted(p.name for p in _list_names(place))
    if not inside:
        return "it is empty"
    more = f" and {len(inside) - 5} more" if len(inside) > 5 else ""
    return f"it is a folder without spec.yaml; it holds {', '.join(inside[:5])}{more}"


def _cure(place: Path) -> str:
    return next((hint for file, (_, hint) in KINDS.items() if (place / file).exists()), OTHERWISE)


def _list_names(place: Path) -> Iterator[Path]:
    try:
        yield from place.iterdir()
    except OSError:
        return

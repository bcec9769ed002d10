"""The contract of imported policies: they act, survive saving, learn on, and act again."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from ..errors import WamkitError
from ..files import strict_yaml
from ..policy.importing import plan_import, read_source
from ..policy.observation import random_observation
from ..policy.policy import Policy
from .dataset import record
from .training import short_run


def expect_acts_and_learns(
    policy: Policy, folder: Path, *, prompt: str = "test", steps: int = 2
) -> None:
    """Raise AssertionError unless an imported policy saves, loads, learns and acts.

    Args:
        policy: As an import made it.
        folder: For its copies and a run of `steps` updates on a small made-up data set.
        prompt: The instruction, if the text encoder knows only some.
        steps: Updates of the run.
    """
    observation = replace(random_observation(policy.spec, batch=1), prompt=[prompt])
    chunk = policy.act(observation, seed=1).values
    again = Policy.load(policy.save(folder / "saved"))
    assert torch.equal(again.act(observation, seed=1).values, chunk), "it acts differently saved"
    spec = policy.spec
    frames = spec.steps + spec.video.frame_stride * spec.video.num_observed + 4
    data = record(
        folder / "data",
        spec,
        episodes=2,
        frames=frames,
        size=(16, 16),
        image_format="image",
        prompt=prompt,
    )
    short_run(again, data, folder / "run", steps=steps, batch_size=1, save_every=steps)
    learned = Policy.load(folder / "run" / "checkpoints" / "last" / "policy")
    found = learned.act(observation, seed=1).values
    assert found.shape == chunk.shape
    assert bool(found.isfinite().all()), "after it learned, its actions are not finite"
    assert not torch.equal(found, chunk), "it did not learn"


_LEFT_OUT = object()
_ODD: tuple[Any, ...] = (None, 0, "x", _LEFT_OUT, [], {}, -1, 1.5, True, [1])
"""What a setting may be by mistake."""


def expect_clear_errors(
    place: Path,
    files: Sequence[str],
    folder: Path,
    options: Iterable[str] = (),
    *,
    every: int = 1,
) -> None:
    """Raise AssertionError unless damaged settings are refused by WamkitError, or read.

    Every value and table in the files is replaced by an odd value, or left out, in turn, and the
    import planned. Every one is left out once, and what is left is read.

    Args:
        place: A checkpoint that can be imported: a file, or a folder.
        files: Names of its JSON and YAML files, relative to its folder.
        folder: An empty folder, for copies.
        options: Of the import.
        every: To plan with only each second, third ... value damaged, for speed.
    """
    home = place if place.is_dir() else place.parent
    copied, options = folder / home.name, tuple(options)
    shutil.copytree(home, copied)
    place, odd = copied / place.relative_to(home), cycle(_ODD)
    system = read_source(place, options)[1].name
    for name in files:
        text = (copied / name).read_text(encoding="utf-8")
        table = strict_yaml.loads(text) if name.endswith(("yaml", "yml")) else json.loads(text)
        paths = list(_paths(table))
        for path in paths:
            (copied / name).write_text(json.dumps(_changed(table, path, _LEFT_OUT)))
            where = f"{name}: {'.'.join(map(str, path))} is left out"
            _expect_clear_error(lambda: read_source(place, options, system), where)
        chosen = paths[::every]
        for path, value in zip(chosen, odd, strict=False):  # the odd values never end
            (copied / name).write_text(json.dumps(_changed(table, path, value)))
            found = "left out" if value is _LEFT_OUT else f"{value!r}"
            where = f"{name}: {'.'.join(map(str, path))} is {found}"
            _expect_clear_error(lambda: plan_import(place, None, options), where)
        for whole in ("", "[]", "3", '"x"', "null"):
            (copied / name).write_text(whole)
            where = f"{name} is {whole!r}"
            _expect_clear_error(lambda: plan_import(place, None, options), where)
        (copied / name).write_text(text, encoding="utf-8")


def _expect_clear_error(act: Callable[[], object], where: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            act()
    except WamkitError as error:
        assert "does not say what" not in error.what, f"{where}: {error.what} (not clear)"
    except Exception as error:
        raise AssertionError(f"{where}: {type(error).__name__} {error}") from error


def _paths(table: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys to every value and table; of a list, to its first element."""
    inner: list[tuple[Any, Any]] = list(table.items()) if isinstance(table, dict) else []
    if isinstance(table, list):
        inner = list(enumerate(table))[:1]
    for key, value in inner:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _changed(table: Any, path: Sequence[Any], value: Any) -> Any:
    found = deepcopy(table)
    at = found
    for key in path[:-1]:
        at = at[key]
    if value is _LEFT_OUT:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return found

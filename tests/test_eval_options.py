"""Options of `wamkit eval` that nothing would read are refused, with what to type instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit.cli._eval_options import USED
from wamkit.cli.eval import command
from wamkit.errors import WamkitError
from wamkit.simulate.environment import choose

Wamkit = Callable[..., tuple[int, str, str]]
SERVER = "ws://127.0.0.1:9"
VALUES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "tasks": ("--tasks", ("near",)),
    "episodes": ("--episodes", (2,)),
    "seed": ("--seed", (1000,)),
    "execute_steps": ("--execute-steps", (2,)),
    "processes": ("--processes", (2,)),
    "choice": ("--act-option", ("a=1",)),
    "view": ("--camera-map", ("a=b",)),
    "env_settings": ("--env-arg", ("size=8",)),
    "out": ("--out", ("x",)),
    "shard": ("--shard", ("1/2",)),
    "films": ("--films", (1,)),
    "record": ("--record", ("x",)),
    "film": ("--video-format", ("mp4",)),
    "dataset": ("--dataset", ("x",)),
    "column": ("--key-map", ("a=b",)),
    "real_time": ("--real-time", ()),
    "delay_ms": ("--delay-ms", ("120",)),
    "chunk_merge": ("--chunk-merge", ("replace",)),
    "prefix_mode": ("--prefix-mode", ("auto",)),
    "overrides": ("--set", ("dtype=bfloat16",)),
    "device": ("--device", ("cpu",)),
    "api_key_file": ("--api-key-file", ("keys.txt",)),
}
TARGETS = {"env": "pusht", "suite": "pusht", "data": "recordings", "merge": "shards"}
POLICY = frozenset((*VALUES, "policy", "json"))
BASELINE = POLICY - {
    *("execute_steps", "choice", "view", "real_time", "delay_ms", "chunk_merge", "prefix_mode"),
    *("overrides", "device", "api_key_file"),
}


def test_the_targets_of_every_option_are_stated() -> None:
    known = set(inspect.signature(command).parameters) - {"context"}
    assert known == {*VALUES, *TARGETS, "policy", "json"} == set().union(*USED.values())


@pytest.mark.parametrize(
    ("actor", "target"),
    [
        *(("nobody", target) for target in ("env", "suite", "data")),
        ("random", "env"),
        ("expert", "suite"),
        (SERVER, "suite"),
        (None, "merge"),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(
    wamkit: Wamkit, actor: str | None, target: str
) -> None:
    reads = USED[target]
    if actor in ("random", "expert"):
        reads &= BASELINE
    elif actor == SERVER:
        reads &= BASELINE | {"execute_steps", "view", "api_key_file"}
    who = [] if actor is None else [actor]
    for name, (flag, value) in VALUES.items():
        if name in reads:
            continue
        code, _, err = wamkit("eval", *who, f"--{target}", TARGETS[target], flag, *value)
        assert code == 2 and f"{flag} has no meaning for" in err, f"{flag}: {err}"
        assert "hint: leave it out" in err


def test_all_options_without_a_meaning_are_named_at_once(wamkit: Wamkit) -> None:
    code, _, err = wamkit("eval", "nobody", "--data", "x", "--films", 2, "--camera-map", "a=b")
    assert code == 2 and "--camera-map and --films have no meaning for --data" in err
    assert "leave them out; map a view to a key of the data set: --key-map NAME=KEY" in err


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        ((SERVER, "--env", "pusht"), ("is a server", "--suite NAME")),
        ((SERVER, "--data", "x"), ("is a server", "--suite NAME")),
        (("expert", "--data", "x"), ("expert imagines nothing",)),
        (("random", "--env", "pusht", "--video-format", "gif"), ("no video is made", "--record")),
        (
            ("random", "--suite", "pusht", "--films", 0, "--video-format", "gif"),
            ("--films 0 makes no video",),
        ),
        (
            ("nobody", "--suite", "pusht", "--api-key-file", "x"),
            ("--api-key-file has no meaning for what acts without a server", "ws://HOST:PORT"),
        ),
        (("random", "--merge", "x"), ("POLICY has no meaning for --merge",)),
    ],
)
def test_targets_and_actors_without_a_meaning_are_refused(
    wamkit: Wamkit, args: tuple[Any, ...], messages: tuple[str, ...]
) -> None:
    code, _, err = wamkit("eval", *args)
    assert code == 2 and all(message in err for message in messages), err


def test_an_environment_is_named_once() -> None:
    for text, override in (("pusht", "name=metaworld"), ("gymnasium:Pendulum-v1", "id=Ant-v5")):
        with pytest.raises(WamkitError, match="is set twice"):
            choose(text, [override])


def test_a_view_is_mapped_once(wamkit: Wamkit, tmp_path: Path) -> None:
    import rails

    saved = rails.save_policy(tmp_path / "policy")
    rest = ("--env", "pusht", "--processes", 0)
    twice = ("--camera-map", "side=top", "--camera-map", "side=corner")
    code, _, err = wamkit("eval", saved, *rest, *twice)
    assert code == 2 and "--camera-map gives 'side' twice: 'top' and 'corner'" in err
    code, _, err = wamkit("eval", saved, *rest, "--act-option", "seed=1")
    assert code == 2 and "single_pass leaves no choice called 'seed'" in err

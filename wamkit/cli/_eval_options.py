"""Which options of `wamkit eval` have a meaning for what is evaluated, and for who acts there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..errors import WamkitError
from ._eval_policy import BASELINES, is_remote

EVERYWHERE = frozenset(("policy", "episodes", "seed", "json"))
ACTING = frozenset(
    ("execute_steps", "choice", "view", "real_time", "delay_ms", "chunk_merge", "prefix_mode")
)
LOADED = frozenset(("overrides", "device"))
PLAYED = ACTING | {"processes", "env_settings", "film"}
USED: Mapping[str, frozenset[str]] = {
    "merge": frozenset(("merge", "json")),
    "data": EVERYWHERE | LOADED | {"data", "column"},
    "env": EVERYWHERE | LOADED | PLAYED | {"env", "record", "dataset"},
    "suite": EVERYWHERE
    | LOADED
    | PLAYED
    | {"suite", "tasks", "out", "shard", "films", "api_key_file"},
}
"""Target -> parameters of the command that have a meaning for it."""
UNUSED_BY_SERVER = (ACTING | LOADED) - {"execute_steps", "view"}
REAL_TIME = "add --real-time, in which it goes on while the policy computes"

HINTS = {
    "tasks": {"env": "name one task behind a colon: --env NAME:TASK"},
    "out": {"env": "films and results of one environment: --record DIR"},
    "films": {"env": "films of one environment: --record DIR"},
    "shard": {"env": "only suites have shares: --suite NAME"},
    "record": {"suite": "a suite has --out DIR and --films N"},
    "dataset": {"suite": "record each task: --env NAME:TASK --dataset DIR"},
    "column": dict.fromkeys(("env", "suite"), "map a view to a camera: --camera-map VIEW=CAMERA"),
    "view": {"data": "map a view to a key of the data set: --key-map NAME=KEY"},
    "choice": {"server": "name the policy itself"},
    "overrides": {"server": "type it where the policy is served: wamkit serve POLICY --set"},
    "device": {"server": "type it where the policy is served: wamkit serve POLICY --device"},
    "delay_ms": {"waiting": REAL_TIME},
    "chunk_merge": {"waiting": REAL_TIME},
    "prefix_mode": {"waiting": REAL_TIME},
    "api_key_file": {"here": "a server has keys: ws://HOST:PORT"},
    "real_time": {"server": "name the policy itself: its delays are simulated"},
}
"""Parameter -> target or actor that has no use for it -> what to type instead."""


def expect_used(
    target: str, policy: str | None, typed: Iterable[str], flag: Callable[[str], str]
) -> None:
    """Raise WamkitError if an option was typed that nothing would read.

    Args:
        target: "merge", "env", "suite" or "data".
        policy: As it was typed.
        typed: Names of the parameters that were typed.
        flag: Parameter -> the option as it is typed.
    """
    given = set(typed)
    _refuse(given - USED[target], f"--{target}", target, flag)
    if policy in BASELINES:
        _refuse(given & (ACTING | LOADED), str(policy), "baseline", flag)
    elif policy is not None and is_remote(policy):
        _refuse(given & UNUSED_BY_SERVER, "a server", "server", flag)
    if policy is not None and not is_remote(policy):
        _refuse(given & {"api_key_file"}, "what acts without a server", "here", flag)
    if "real_time" not in given:
        late = given & {"delay_ms", "chunk_merge", "prefix_mode"}
        _refuse(late, "a world that waits", "waiting", flag)


def expect_actor(target: str, policy: str) -> None:
    """Raise WamkitError if `policy` is a baseline or a server, and `target` takes none."""
    if target == "data" and policy in BASELINES:
        raise WamkitError(
            f"{policy} imagines nothing, and --data compares what a policy imagines",
            "name a saved policy, or play it: --env or --suite",
        )
    if target in ("env", "data") and is_remote(policy):
        raise WamkitError(
            f"{policy} is a server, and --{target} takes a policy that is loaded here",
            "a server plays suites: --suite NAME, and --tasks TASK for one of its tasks; or name "
            "the policy itself",
        )


def expect_films(target: str, *, record: Path | None, films: int, typed: bool) -> None:
    """Raise WamkitError if a format of videos was `typed`, and none are made."""
    if typed and target == "env" and record is None:
        raise WamkitError("--video-format, and no video is made", "add --record DIR")
    if typed and target == "suite" and not films:
        raise WamkitError(
            "--video-format, and --films 0 makes no video", "choose --films 1, or leave one out"
        )


def _refuse(names: Iterable[str], who: str, key: str, flag: Callable[[str], str]) -> None:
    """Raise WamkitError with the hints of all options of those names, if there are any."""
    found = sorted(names, key=flag)
    if not found:
        return
    flags = [flag(name) for name in found]
    hints = dict.fromkeys(HINTS.get(name, {}).get(key, "") for name in found)
    listed = ", ".join(flags[:-1]) + " and " * (len(flags) > 1) + flags[-1]
    verb = "have" if len(flags) > 1 else "has"
    hint = "; ".join(one for one in hints if one)
    leave = f"leave {'them' if len(flags) > 1 else 'it'} out"
    raise WamkitError(f"{listed} {verb} no meaning for {who}", f"{leave}{'; ' * bool(hint)}{hint}")

"""The policy of `wamkit eval`, loaded once everything fits its environment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SpecError, WamkitError, did_you_mean
from ..files.install import install_hint
from ._output import note
from ._real_time import RealTimeOptions
from ._sources import resolve_source

if TYPE_CHECKING:
    from ..simulate.environment import Robot
    from ..simulate.policy_runner import PolicyRunner
    from ..simulate.suite.actor import Actor
    from ..simulate.suite.plan import Task


BASELINES = ("random", "expert")


@dataclass(frozen=True)
class PolicyOptions:
    """How the policy is to act, as it was typed."""

    policy: str
    execute_steps: int | None
    act_options: list[str]
    camera_map: list[str]
    overrides: list[str]
    device: str
    real_time: RealTimeOptions | None = None
    api_key_file: Path | None = None


def is_remote(policy: str) -> bool:
    """Whether a server is meant."""
    return policy.startswith(("ws://", "wss://"))


def expect_serve() -> None:
    """Raise WamkitError unless the modules of a client are installed."""
    for module in ("websockets", "msgpack"):
        if find_spec(module) is None:
            raise WamkitError(
                f"a server is reached with {module}, which is not installed", install_hint("serve")
            )


def trained_conventions(options: PolicyOptions) -> str:
    """The conventions that a saved policy names; "" of a baseline, a server, or none at all."""
    from ..config.runs import is_folder
    from ..policy.build import resolve

    if options.policy in BASELINES or is_remote(options.policy) or not is_folder(options.policy):
        return ""
    return resolve(resolve_source(Path(options.policy)), options.overrides).conventions


def load_runner(options: PolicyOptions, robot: Robot, *, imagine: bool = False) -> PolicyRunner:
    """The policy, loaded when everything fits. Raises SpecError with all that does not."""
    from ..config.runs import is_folder
    from ..policy.build import resolve
    from ..simulate.compatibility import conflicts, views_of
    from ._inputs import load_policy

    policy, overrides = options.policy, options.overrides
    if not is_folder(policy):
        raise WamkitError(
            f"no saved policy at {policy}",
            "name the folder of one, or a baseline: random or expert",
        )
    folder = resolve_source(Path(policy))
    spec = resolve(folder, overrides)
    named = parse_pairs("--camera-map", options.camera_map)
    paradigm = spec.paradigm.build()
    stateful = paradigm.stateful
    act_options = _parse_act_options(options.act_options, spec.paradigm.name, paradigm.act_options)
    steps = options.execute_steps or (
        spec.actions.chunk_size if stateful else max(1, spec.actions.chunk_size // 2)
    )
    found = list(conflicts(spec, robot, named, steps, stateful))
    if (late := options.real_time) is not None:
        found += late.conflicts(spec, steps)
    if found:
        raise SpecError(found, f"{policy} in this environment")
    from ..simulate.policy_runner import PolicyRunner

    if late is not None:
        late.prefix_mode(spec)  # before any weight is loaded
        if (line := late.spike_note(spec, steps)) is not None:
            note(line)
    made, notes = load_policy(folder, spec, options.device, overrides)
    for line in notes:
        note(line)
    views = views_of(spec, robot, named)
    if late is not None:
        return late.runner(made, views, steps, act_options, imagine=imagine)
    return PolicyRunner(made, views, steps, act_options, imagine=imagine)


def load_actor(
    options: PolicyOptions, robot: Robot, tasks: Sequence[Task], simulators: int, stack: ExitStack
) -> tuple[dict[str, Any], Actor | None]:
    """What decides in a suite, None for a baseline, and all of it that decides the results.

    Connections to a server are closed with `stack`. Raises SpecError with every reason why the
    policy does not fit.
    """
    if options.policy in BASELINES:
        return {"name": options.policy}, None
    if is_remote(options.policy):
        expect_serve()
        from ..serve.keys import read_key
        from ..serve.remote_actor import RemoteActor

        key = None if options.api_key_file is None else read_key(options.api_key_file)
        named = parse_pairs("--camera-map", options.camera_map)
        remote = stack.enter_context(
            RemoteActor(options.policy, robot, named, options.execute_steps, simulators, key)
        )
        return remote.settings, remote
    from ..policy.fingerprint import fingerprint
    from ..simulate.suite.actor import PolicyActor

    runner = load_runner(options, robot)
    policy = runner.policy
    if policy.actions.statistics is None:
        note("the policy has no statistics: its actions are in normalized units")
    settings = {
        "fingerprint": fingerprint(policy),
        "execute_steps": runner.execute_steps,
        "chunk_size": policy.spec.actions.chunk_size,
        "views": dict(runner.views),
        "act_options": dict(runner.act_options),
        "device": policy.device.type,
    }
    if options.real_time is not None:
        mode = options.real_time.prefix_mode(policy.spec)
        settings["real_time"] = options.real_time.described(mode)
    return settings, PolicyActor(runner, [task.instruction for task in tasks])


def parse_pairs(option: str, args: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` arguments to a dictionary."""
    found: dict[str, str] = {}
    for word in args:
        name, equals, value = word.partition("=")
        if not equals:
            raise WamkitError(f"{option} {word!r} has no '='", f"write {option} NAME=VALUE")
        if name in found:
            raise WamkitError(
                f"{option} gives {name!r} twice: {found[name]!r} and {value!r}", "leave one out"
            )
        found[name] = value
    return found


def _parse_act_options(
    args: Iterable[str], paradigm: str, known: Collection[str]
) -> dict[str, Any]:
    """`NAME=VALUE` arguments of a paradigm. Raises WamkitError if it has none of a name."""
    typed = parse_pairs("--act-option", args)
    for name in typed:
        if name not in known:
            hint = did_you_mean(name, list(known), f"it leaves {', '.join(known) or 'nothing'}")
            raise WamkitError(f"{paradigm} leaves no choice called {name!r}", hint)
    return {name: _value(text) for name, text in typed.items()}


def _value(text: str) -> Any:
    """A number, true, false, null or text, as YAML reads it."""
    from ..files import strict_yaml

    try:
        return strict_yaml.loads(text)
    except ValueError as error:
        raise WamkitError(f"the value {text[:80]!r} cannot be read: {error}", "quote it") from None

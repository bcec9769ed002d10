"""`wamkit serve`: a policy behind a socket, for robots that speak openpi's protocol."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import WamkitError
from ..files.printable import OneLine
from ._options import Device, Overrides, Quantize, Source, Tiny
from ._output import note, say, show_table, spinner, table
from ._protocols import draw_address, draw_protocol, reachable
from ._sources import resolve_source

if TYPE_CHECKING:
    import socket

    from ..serve.server import Server
    from ..serve.signals import Signals

EXAMPLE = "wamkit serve runs/press/policy --port 8000 --camera-map front=observation/image"

LOCAL = ("127.0.0.1", "::1")


def command(
    source: Source,
    host: Annotated[
        str,
        typer.Option(
            help="Address to bind: 127.0.0.1 accepts local clients only, 0.0.0.0 any host."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    view: Annotated[
        list[str] | None,
        typer.Option(
            "--camera-map",
            metavar="VIEW=KEY",
            help="Map a view to the key of its image in a request; by default observation/VIEW.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INSTRUCTION",
            help="An instruction that robots will send, made ready for before the first request; "
            "may be repeated.",
        ),
    ] = None,
    ping_interval: Annotated[
        float, typer.Option(min=0, help="Seconds between pings to clients; 0 for no pings.")
    ] = 20,
    ping_timeout: Annotated[
        float,
        typer.Option(min=0, help="Drop a client that answers no ping for so long; 0 for never."),
    ] = 600,
    session_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to keep the session of a disconnected client.")
    ] = 600,
    keep_sessions: Annotated[
        int, typer.Option(min=0, help="Maximum of kept sessions; 0 for none.")
    ] = 8,
    max_clients: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum of connections. Beyond it, an idle connection without requests gives "
            "way; if all did, the new one is refused.",
        ),
    ] = 64,
    max_buffer: Annotated[
        int,
        typer.Option(
            min=1,
            help="MiB of partial or waiting messages of all clients together. Beyond it, "
            "the client that holds most is disconnected.",
        ),
    ] = 1024,
    max_message: Annotated[
        int, typer.Option(min=1, max=128, help="MiB of one message at most.")
    ] = 128,
    max_queue: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum of requests that wait. One more is answered at once that the server is "
            "busy.",
        ),
    ] = 64,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Maximum of requests that are computed together. By default 8, and 1 in a mode "
            "that compiles or captures, which prepares every power of 2 up to it at the start.",
        ),
    ] = None,
    max_wait_ms: Annotated[
        float,
        typer.Option(
            min=0,
            max=1000,
            help="Milliseconds that a request waits for those of other robots; 0 for never. A "
            "robot alone never waits.",
        ),
    ] = 5,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Accept only clients with a key in this file, one a line, in the header "
            "Authorization: Api-Key KEY.",
        ),
    ] = None,
    protocol: Annotated[
        Literal[
            "openpi",
            "auto",
            "roboarena",
            "dreamzero",
            "starvla",
            "gr00t",
            "cosmos-policy",
            "sglang",
            "vla-eval",
        ],
        typer.Option(
            help="Protocol of the clients. auto tells openpi, RoboArena and starVLA apart by the "
            "first message; vla-eval's benchmarks ask for one action at a time.",
        ),
    ] = "openpi",
    execute_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --protocol vla-eval: actions executed of each chunk; by default half of "
            "them.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Show a live page at http://HOST:PORT/watch: what robots see, what the policy "
            "imagines, actions and latency.",
        ),
    ] = False,
    robot: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Keys, units and signs of the robot: droid, libero, aloha, so101, roboarena, "
            "cosmos_aloha, or a file of your own.",
        ),
    ] = None,
    mode: Annotated[
        Literal["eager", "compile", "graph", "compile+graph"],
        typer.Option(help="Run mode."),
    ] = "eager",
    quantize: Quantize = "none",
    tiny: Tiny = False,
    overrides: Overrides = None,
    device: Device = "cpu",
) -> None:
    """Serve a policy until Ctrl-C or SIGTERM, to clients of openpi, wamkit and others (--protocol).

    Requests of several robots are computed together. Without --api-key-file any host that reaches
    the port can send requests. A second signal ends it at once.
    """
    from ..serve import require

    require()
    times = {
        "--ping-interval": ping_interval,
        "--ping-timeout": ping_timeout,
        "--session-timeout": session_timeout,
        "--max-wait-ms": max_wait_ms,
    }
    if endless := [name for name, seconds in times.items() if not isfinite(seconds)]:
        raise WamkitError(
            f"{' and '.join(endless)} must be a number of seconds",
            "for example --ping-timeout 3600, or 0 for never",
        )
    from ..serve.keys import ApiKeys, read_keys
    from ..serve.limits import Limits
    from ..serve.protocol import keys_of
    from ..serve.protocols import check_options, make_server, robot_of
    from ..serve.robot_map import read_robot
    from ..serve.server import address_of, bind
    from ..serve.sessions import SessionTimeouts
    from ..serve.signals import Signals
    from ._inputs import chosen, load_policy

    check_options(protocol, watch=watch, execute_steps=execute_steps)
    with Signals() as signals:
        named, source = source.stem, resolve_source(source)
        spec, notes = chosen(source, overrides or [], tiny=tiny)
        renamed = _parse_camera_map(view or [])
        chosen_robot = None if robot is None else read_robot(robot)
        robot_map = robot_of(protocol, spec, chosen_robot, renamed)
        if robot_map is None:
            keys_of(spec, renamed)  # before any weight is loaded: are the views there?
        else:
            renamed = {}
        keys = ApiKeys() if api_key_file is None else read_keys(api_key_file)
        listener = bind(host, port)
        policy, untrained = load_policy(source, spec, device, overrides or [], quantize)
        policy.set_mode(mode)
        patience = SessionTimeouts(
            ping_interval or None, ping_timeout or None, session_timeout, keep_sessions
        )
        limits = Limits(
            max_clients,
            buffer=max_buffer << 20,
            message=max_message << 20,
            queue=max_queue,
            batch=max_batch or (8 if mode == "eager" else 1),
            max_wait=max_wait_ms / 1000,
        )
        server = make_server(
            protocol,
            (policy, named, renamed, patience, limits, keys),
            robot_map,
            watch=watch,
            execute_steps=execute_steps,
        )
        with spinner("warming up"):
            server.warm_up(prompt or ())
            gc.collect()
            gc.freeze()  # what compiling left behind is looked through no more, during a chunk
        if policy.actions.statistics is None:
            untrained = [*untrained, "no statistics yet: actions are in normalized units"]
        if host not in LOCAL and not keys:
            untrained = [
                *untrained,
                f"any client that reaches {host} can send requests: there is no --api-key-file",
            ]
        for line in notes + untrained + unready(mode, prompt or []):
            note(line)
        _log_to_stderr()
        asyncio.run(_serve(server, listener, address_of(listener), signals, api_key_file))
        signals.finish()


def _log_to_stderr() -> None:
    """Log connections, one line each with its time."""
    logger = logging.getLogger("wamkit.serve")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.handlers, logger.propagate = [handler], False


def unready(mode: str, prompts: Sequence[str]) -> list[str]:
    """Note on compilation for prompts that were not named."""
    if mode == "eager" or prompts:
        return []
    return [
        f"in mode {mode} the first request with an instruction of another length takes seconds to "
        "minutes: name those that robots will send with --prompt"
    ]


async def _serve(
    server: Server,
    listener: socket.socket,
    address: tuple[str, int],
    signals: Signals,
    keys: Path | None = None,
) -> None:
    """Serve until a signal comes, and end in order."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    async with server.open(listener):
        signals.end_with(lambda: loop.call_soon_threadsafe(ended.set))
        kept = {"timeout": server.patience.session_timeout if server.patience.kept else 0}
        meta = {**server.metadata(), "session": kept, "watch": server.watch is not None}
        if server.protocol == "openpi":
            _draw(meta, *address, keys)
        else:
            draw_protocol(server.protocol, meta, *address)
        sys.stdout.flush()
        await ended.wait()
        logging.getLogger("wamkit.serve").info(
            "shutting down: the running request is finished; another signal ends it at once"
        )


def _parse_camera_map(args: list[str]) -> dict[str, str]:
    """Parse `VIEW=KEY` arguments to a dictionary."""
    found = {}
    for word in args:
        name, equals, key = word.partition("=")
        if not equals or not key:
            raise WamkitError(f"--camera-map {word!r} names no key", "write --camera-map VIEW=KEY")
        found[name] = key
    return found


def _draw(meta: dict[str, Any], host: str, port: int, keys: Path | None) -> None:
    """Print the policy, the keys of a request, and an example client."""
    say(
        f"{meta['policy']}: chunks of {meta['chunk_size']} x {len(meta['actions'])} actions at "
        f"{meta['control_hz']:g} Hz ({', '.join(meta['actions'])})"
    )
    made = table("key of a request", "value", keep=("key of a request",))
    count, lines = meta["num_images"], []
    for camera in meta["cameras"].values():
        height, width = camera["size"]
        moments = f"{count}, " if count > 1 else ""
        if (ends := camera.get("value_range")) is not None:
            kind = f"one channel [{moments}height, width], {ends[0]:g} to {ends[1]:g}"
            made.add_row(camera["key"], f"{kind}, made {height} x {width}")
            shape = f"({moments}{height}, {width}), {ends[0]:g}, np.float32"
            lines.append(f'"{camera["key"]}": np.full({shape}),')
            continue
        first = camera.get("layout") == "CHW"
        axes = "3, height, width" if first else "height, width, 3"
        shape = f"3, {height}, {width}" if first else f"{height}, {width}, 3"
        made.add_row(camera["key"], f"uint8 [{moments}{axes}], made {height} x {width}")
        lines.append(f'"{camera["key"]}": np.zeros(({moments}{shape}), np.uint8),')
    state = meta["state"]
    sizes = state.get("keys", {state["key"]: state["size"]} if state["size"] else {})
    for key, size in sizes.items():
        made.add_row(key, f"{size} values in physical units")
        lines.append(f'"{key}": np.zeros({size}, np.float32),')
    prompt = meta.get("prompt", "prompt")
    made.add_row(prompt, "the task instruction")
    made.add_row("seed", "may be left out; the same seed gives the same actions")
    made.add_row("reset", "may be left out; True begins a new episode")
    if meta["stateful"]:
        made.add_row("executed", "may be left out; the actions since the last observation")
    if meta.get("imagines"):
        made.add_row("imagine", "may be left out; True returns the predicted frames too")
    if meta.get("prefix"):
        made.add_row("prefix", "may be left out; the actions that the chunk begins with")
    show_table(made)
    example = "\n        ".join([*lines, f'"{prompt}": "pick up the cup",'])
    key = "" if keys is None else f", api_key=read_key({str(keys)!r})"
    load = "" if keys is None else "from wamkit.serve.keys import read_key\n"
    say("\nA client", "bold")
    say(
        "import numpy as np\n"
        f"from wamkit.serve.client import Client\n{load}\n"
        f"{_reconnect_comment(meta)}"
        f'with Client("{reachable(host)}", {port}{key}) as policy:\n'
        f"    reply = policy.infer({{\n        {example}\n    }})\n"
        f'    print(reply["actions"].shape)  # ({meta["chunk_size"]}, {len(meta["actions"])})\n',
        whole=True,
    )
    draw_address(host, port, "healthz", watched=bool(meta.get("watch")))


def _reconnect_comment(meta: dict[str, Any]) -> str:
    """Comment on reconnection for the example client."""
    timeout = meta.get("session", {}).get("timeout")
    if not timeout:
        return ""
    return f"# A lost connection is restored; the session is kept for {timeout:g} s.\n"

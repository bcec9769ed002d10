"""What `wamkit serve` prints: where clients connect, and for those of other protocols, keys."""

from __future__ import annotations

from typing import Any

from ._output import say, show_table, table

URLS = {
    "gr00t": "tcp://{address}",
    "cosmos-policy": "http://{address}/act",
    "sglang": "http://{address}/v1/actions/generations",
}
"""Where clients send messages, where it is no websocket."""


def draw_protocol(protocol: str, meta: dict[str, Any], host: str, port: int) -> None:
    """Print the policy, the keys of an observation, and where clients connect."""
    if protocol == "vla-eval":
        count = len(meta["actions"])
        say(f"{meta['policy']}: one of {count} actions for each observation of vla-eval")
        reached = f"ws://{reachable(host)}:{port}"
        say(f"vla-eval run --config BENCHMARK.yaml --server-url {reached}", whole=True)
        return draw_address(host, port, "health", watched=bool(meta.get("watch")))
    say(
        f"{meta['policy']} for clients of {protocol}: chunks of {meta['chunk_size']} at "
        f"{meta['control_hz']:g} Hz"
    )
    made = table("key", "value", keep=("key",))
    for view, camera in meta["cameras"].items():
        made.add_row(camera["key"], f"image of view {view}")
    for key, size in meta["state"]["keys"].items():
        made.add_row(key, f"{size} values of the state")
    made.add_row(meta["prompt"], "the task instruction")
    for key, size in meta["action_keys"].items():
        made.add_row(key, f"{size} values of an action, in the reply")
    show_table(made)
    if protocol == "gr00t":  # without HTTP
        return say(
            f"ready at {URLS[protocol].format(address=_join_address(host, port))}; Ctrl-C ends it"
        )
    url = URLS.get(protocol, "ws://{address}")
    return draw_address(host, port, "healthz", url, watched=bool(meta.get("watch")))


def draw_address(
    host: str, port: int, health: str, url: str = "ws://{address}", *, watched: bool
) -> None:
    """Print where clients connect, where health is asked for, and where the live page is."""
    if watched:
        say(f"watch: http://{_join_address(reachable(host), port)}/watch")
    address = _join_address(host, port)
    where = url.format(address=address)
    say(f"ready at {where} (health: http://{address}/{health}); Ctrl-C ends it")


def reachable(host: str) -> str:
    """An address that a client on this machine can use."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""What `wamkit serve` prints for clients of other protocols than openpi's."""

from __future__ import annotations

from typing import Any

from ._output import say, show_table, table

URLS = {
    "gr00t": "tcp://{host}:{port}",
    "cosmos-policy": "http://{host}:{port}/act",
    "sglang": "http://{host}:{port}/v1/actions/generations",
}
"""Where clients send messages, where it is no websocket."""


def draw_protocol(protocol: str, meta: dict[str, Any], host: str, port: int) -> None:
    """Print the policy, the keys of an observation, and where clients connect."""
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
    address = f"[{host}]" if ":" in host else host
    url = URLS.get(protocol, "ws://{host}:{port}").format(host=address, port=port)
    health = "" if protocol == "gr00t" else f" (health: http://{address}:{port}/healthz)"
    say(f"ready at {url}{health}; Ctrl-C ends it")

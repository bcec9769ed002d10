"""A policy behind a socket: openpi's protocol, so that robots that speak it need nothing of wamkit.

`codec` packs arrays in msgpack, `protocol` defines requests and replies, `server` answers them,
`client` sends them, `latency` measures round trips. Importing the package or
its client imports no torch.
"""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import WamkitError
from ..files.install import install_hint


def require() -> None:
    """Raise WamkitError unless the packages of a server are installed."""
    if missing := [name for name in ("websockets", "msgpack") if find_spec(name) is None]:
        raise WamkitError(
            f"serving needs {' and '.join(missing)}, which is not installed",
            install_hint("serve"),
        )

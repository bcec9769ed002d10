"""The socket of a server: bound before anything is loaded, so that a port that is taken is no wait.

Clients are refused until the server listens on it, which it does once the policy is warm.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from ..errors import WamkitError


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket, which refuses clients until a server listens; port 0 picks a free one.

    Raises WamkitError if the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise WamkitError(
            f"there is no host {host!r}: {error.strerror}", "--host 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        hints = {
            errno.EADDRINUSE: f"stop that program, or take --port {port + 1}, or --port 0 for any",
            errno.EACCES: "take a port from 1024 on",
            errno.EADDRNOTAVAIL: "name an address of this machine: --host 127.0.0.1",
        }
        raise WamkitError(
            f"port {port} of {host} cannot be had: {error.strerror}",
            hints.get(error.errno or 0, "take another --port"),
        ) from None
    return made


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Host and port of a bound socket."""
    found: Any = listener.getsockname()
    return found[0], found[1]

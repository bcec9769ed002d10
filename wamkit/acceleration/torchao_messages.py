"""Messages of other packages that ask nothing of anyone, kept off the terminal by their words.

Where torchao is installed, diffusers imports it, and torch and diffusers then speak of names inside
torchao. Every other message of the same loggers, and of all others, is printed as before.
"""

from __future__ import annotations

import logging
import re

NOISE = {
    "torch.utils._pytree": r"<enum '\w+'> is an Enum subclass",
    "torchao": r"Skipping import of cpp extensions",
    "diffusers.quantizers.torchao.torchao_quantizer": r"Unable to import `torchao` Tensor objects",
}
"""Logger -> what its messages about torchao's own names begin with."""


class _Known(logging.Filter):
    """Drops the messages that begin like `pattern`."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.pattern = pattern

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to print it."""
        return re.match(self.pattern, record.getMessage()) is None


def silence_torchao() -> None:
    """Drop what importing torchao makes others say; importing nothing itself."""
    for name, pattern in NOISE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Known) for known in logger.filters):
            logger.addFilter(_Known(pattern))

"""Print warnings of the library during a verb as notes on stderr."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from ..errors import Note, printable
from ._output import note


def print_notes(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap `command` to print each `Note` once; other warnings are printed as usual."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        printed: set[str] = set()
        with warnings.catch_warnings():
            plain = warnings.showwarning

            def show(message: Any, category: Any, *rest: Any, **options: Any) -> None:
                if not issubclass(category, Note):
                    plain_text = printable(str(message))
                    message = message if plain_text == str(message) else UserWarning(plain_text)
                    plain(message, category, *rest, **options)
                elif str(message) not in printed:
                    printed.add(str(message))
                    note(str(message))

            warnings.showwarning = show
            warnings.simplefilter("always", Note)
            command(*args, **kwargs)

    return run

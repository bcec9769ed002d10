"""What the library remarks while a verb runs, as notes on stderr."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from ..errors import Note, printable
from ._output import note


def noted(command: Callable[..., None]) -> Callable[..., None]:
    """`command` such that each `Note` is printed once; other warnings are shown as ever."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        said: set[str] = set()
        with warnings.catch_warnings():
            plain = warnings.showwarning

            def show(message: Any, category: Any, *rest: Any, **options: Any) -> None:
                if not issubclass(category, Note):
                    plain_text = printable(str(message))
                    message = message if plain_text == str(message) else UserWarning(plain_text)
                    plain(message, category, *rest, **options)
                elif str(message) not in said:
                    said.add(str(message))
                    note(str(message))

            warnings.showwarning = show
            warnings.simplefilter("always", Note)
            command(*args, **kwargs)

    return run

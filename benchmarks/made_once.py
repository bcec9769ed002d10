"""A folder that several processes need, and that the first of them makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import sleep

from wamkit.errors import WamkitError
from wamkit.files.durable import NotWrittenError
from wamkit.files.locking import lock


def made_once(folder: Path, make: Callable[[Path], None], pause: float = 1.0) -> Path:
    """Return `folder`, which `make` fills under another name if it is not there.

    One process makes it, and others wait: they look again every `pause` seconds. What a killed
    process left is made anew.
    """
    part, printed = folder.with_name(f"{folder.name}.part"), False
    while not folder.exists():
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(folder, outside=True))
            except NotWrittenError:
                raise
            except WamkitError as problem:
                if not printed:
                    print(f"{problem.what}; waiting until it is made", flush=True)
                printed = True
                sleep(pause)
                continue
            if folder.exists():
                break
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(folder)
    return folder

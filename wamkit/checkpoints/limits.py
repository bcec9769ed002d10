"""A limit on the parameters of a module, enforced while it is built from untrusted sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import WamkitError
from ..files.safetensors_header import MOST_TENSORS


@contextmanager
def limit_parameters(what: str, most: int = MOST_TENSORS) -> Iterator[None]:
    """Allow modules built inside the `with` block at most `most` parameter tensors.

    `what` names the part in the error. Raises WamkitError at the first parameter beyond.
    """
    count = 0

    def count_one(module: Any, name: str, parameter: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise WamkitError(
                f"{what} would have more than {most:,} parameter tensors by its sizes",
                "check its numbers of layers, in the spec and in the config.json of its weights",
            )

    handle = register_module_parameter_registration_hook(count_one)
    try:
        yield
    finally:
        handle.remove()

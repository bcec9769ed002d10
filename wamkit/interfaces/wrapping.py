"""A wrapped backbone that a part makes once, and keeps without owning it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .backbone import Backbone, WrappedBackbone

Wrapped = TypeVar("Wrapped", bound=WrappedBackbone)


class WrapperCache(Generic[Wrapped]):
    """The wrapper that a part made of a backbone; a copy or a pickle of it is empty.

    A wrapper holds the backbone, whose weights belong to the policy: a copy of the part alone must
    neither copy nor keep it.
    """

    def __init__(self) -> None:
        self._made: tuple[Wrapped, tuple[Any, ...]] | None = None

    def __reduce__(self) -> tuple[type[WrapperCache[Any]], tuple[()]]:
        return WrapperCache, ()

    def get_or_wrap(self, wrap: Callable[..., Wrapped], backbone: Backbone, *given: Any) -> Wrapped:
        """`wrap(backbone, *given)`; the same object as long as these are the same."""
        if self._made is None or self._made[0].inner is not backbone or self._made[1] != given:
            self._made = wrap(backbone, *given), given
        return self._made[0]

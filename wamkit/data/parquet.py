"""Parquet columns as arrays, through pyarrow, which is imported when the first file is read."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..install import install_hint
from ..placeholders import refuse_placeholder

INSTALL = install_hint("data")


def arrow() -> Any:
    """The module pyarrow. Raises WamkitError with the command that installs it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise WamkitError(f"data sets need pyarrow: {error}", INSTALL) from None
    return pyarrow


def opened(file: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises WamkitError if it is missing or damaged, or has two columns of one name.
    """
    module = arrow()
    if not isfile(file):  # False as well for a name that is too long
        raise WamkitError(f"{file} is missing", "copy the whole data set again")
    refuse_placeholder(file)
    try:
        found = module.parquet.ParquetFile(file.absolute())  # `press:v2/x` is no address
        names = found.schema_arrow.names
    except (OSError, module.ArrowException) as error:
        raise WamkitError(f"{file} is damaged or incomplete: {error}", "copy it again") from None
    if twice := sorted({name for name in names if names.count(name) > 1}):
        words = ", ".join(map(repr, twice))
        raise WamkitError(f"{file} has two columns {words}", "write it again with one of each name")
    return found


def read(file: Path, columns: Sequence[str] | None = None, group: int | None = None) -> Any:
    """The columns of a file, or of one row group, as a `pyarrow.Table`.

    Raises WamkitError if the file is missing or damaged, or lacks a column.
    """
    table = opened(file)
    names = table.schema_arrow.names
    wanted = names if columns is None else list(columns)
    if missing := [name for name in wanted if name not in names]:
        raise WamkitError(
            f"{file} has no column {', '.join(map(repr, missing))}; it has {', '.join(names)}",
            "run `wamkit data check` on the folder",
        )
    try:
        return table.read(columns=wanted) if group is None else table.read_row_group(group, wanted)
    except (OSError, arrow().ArrowException) as error:
        raise WamkitError(f"{file} is damaged or incomplete: {error}", "copy it again") from None


def rows(file: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a small file."""
    return read(file, columns).to_pylist()  # type: ignore[no-any-return]


def array(column: Any) -> NDArray[Any]:
    """A column of numbers or of lists of numbers as [rows, ...]; a missing number is NaN.

    Raises ValueError if the lists are not all of one length, or hold what is no number.
    """
    try:
        return _array(column.combine_chunks())
    except (TypeError, NotImplementedError) as error:
        raise ValueError(f"{column.type}: {error}") from None


def _array(column: Any) -> NDArray[Any]:
    kind = str(column.type)
    if not kind.startswith(("fixed_size_list", "list", "large_list")):
        return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    flat = column.flatten()
    if column.null_count or len(flat) % max(len(column), 1):
        raise ValueError("lists of different lengths")
    if not kind.startswith("fixed_size_list"):
        lengths = np.diff(column.offsets.to_numpy())
        if len(lengths) and (lengths != lengths[0]).any():
            raise ValueError("lists of different lengths")
    inner = _array(flat)
    return inner.reshape(len(column), -1, *inner.shape[1:])
